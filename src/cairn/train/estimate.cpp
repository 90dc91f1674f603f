#include "cairn/train/estimate.h"

#include <algorithm>

#include "cairn/core/error.h"
#include "cairn/core/files.h"
#include "cairn/eval/resources.h"
#include "cairn/ops/cuda/kernels.h"

namespace cairn {
namespace {

// Bytes a token that one phase keeps for its backward pass. Counted from the tensors that the plain operators save; `e` is the size of a
// number in products, norms and the residual stream are fp32.
double activation_bytes(const TrainConfig& config, const Phase& phase, int64_t sequences, bool kernels) {
  const ModelConfig& m = config.model;
  const double e = config.train.precision == "bf16" ? 2 : 4;
  const double d = static_cast<double>(m.d_model), h = static_cast<double>(m.heads * m.head_dim),
               kv = static_cast<double>(m.kv_heads * m.head_dim);
  // The residual sum and its norm; with kernels the sum is kept once, and queries and keys as they come and as they are used.
  const double residual = (kernels ? 4 : 8) * d + e * d, wide = kernels ? 0 : 8;
  const double mlp = residual + (kernels ? 3 : 4) * e * static_cast<double>(m.mlp());
  const double attention = residual + (2 * e + wide) * (h + kv) + 2 * e * kv + 2 * e * h;
  const double window_layer = attention + mlp;
  const double per_chunk = 1.0 + 1.0 / static_cast<double>(m.chunk);
  double bytes =
      static_cast<double>(m.lower_layers) * window_layer + static_cast<double>(m.encoder_layers) * window_layer * per_chunk + 16 * d;
  const double chunks = static_cast<double>(phase.length / m.chunk);
  const double selected = std::min(static_cast<double>(phase.top_k), chunks);
  const double mh = static_cast<double>(m.memory_heads), r = static_cast<double>(m.retrieval_dim);
  const bool mass = !config.train.alpha_ramp.empty() || m.alpha > 0;
  const double route_candidates = config.train.route_weight > 0 ? chunks * static_cast<double>(sequences) : 0;
  for (const UpperLayer& layer : m.upper_layers()) {
    if (!layer.memory) {
      bytes += window_layer;
      continue;
    }
    if (layer.window) bytes += attention;
    if (layer.mlp) bytes += mlp;
    bytes += residual + (3 * e + wide) * mh * static_cast<double>(m.head_dim) + (2 * e + wide) * r;
    bytes +=
        16 * chunks + 24 * selected + (kernels ? 2 * e : 9) * route_candidates;  // scores, selection and weights, rivals of the route loss
    if (mass) bytes += (kernels ? 12 : 16) * mh * selected;                      // masses and weights are per head then
    // The masses of all chunks and, written with the loss, the gradient of the scores.
    if (mass && config.train.distillation_weight > 0) bytes += 4 * (mh + 1) * chunks;
  }
  // Cross-entropy works in row blocks; its inputs stay.
  return bytes + (4 + 2 * e) * d + 64;
}

}  // namespace

MemoryEstimate estimate_memory(const TrainConfig& config, int64_t processes, bool kernels) {
  MemoryEstimate estimate;
  estimate.weights = estimate.gradients = 4 * config.model.parameter_count();
  estimate.optimizer = 8 * config.model.parameter_count();
  for (const Phase& phase : config.phases()) {
    const int64_t sequences = config.train.batch_tokens / phase.length;
    const double tokens = static_cast<double>(config.train.batch_tokens) / static_cast<double>(processes);
    // With kernels the logits of small vocabularies stay as well (ops/cross_entropy).
    const double logits = kernels ? std::min(4.0 * tokens * static_cast<double>(config.model.vocab), static_cast<double>(1 << 30)) : 0;
    estimate.activations =
        std::max(estimate.activations, static_cast<int64_t>(tokens * activation_bytes(config, phase, sequences, kernels) + logits));
  }
  return estimate;
}

double training_flops(const TrainConfig& config, const Phase& phase, int64_t sequences) {
  const ModelConfig& m = config.model;
  const double d = static_cast<double>(m.d_model), D = static_cast<double>(m.head_dim), h = static_cast<double>(m.heads) * D,
               kv = static_cast<double>(m.kv_heads) * D, S = static_cast<double>(m.chunk), L = static_cast<double>(phase.length);
  const double mlp = 2 * 3 * d * static_cast<double>(m.mlp());
  const double projections = 2 * d * (h + 2 * kv) + 2 * h * d;
  const double W = std::min(static_cast<double>(m.window), L);
  const double seen = W - W * (W - 1) / (2 * L);  // keys a query sees, averaged over the sequence
  const double window_attention = projections + 4 * seen * h;
  const double chunks = static_cast<double>(phase.length / m.chunk), selected = std::min(static_cast<double>(phase.top_k), chunks);
  const double mh = static_cast<double>(m.memory_heads) * D, r = static_cast<double>(m.retrieval_dim);
  const double rows = m.landmark == "cls" ? S + 1 : S;
  double flops = static_cast<double>(m.lower_layers) * (window_attention + mlp);
  flops += static_cast<double>(m.encoder_layers) * (projections + 4 * rows * h + mlp) * rows / S;
  flops += 2 * d * 2 * static_cast<double>(m.memory_kv_heads) * D + 2 * d * r / S;
  for (const UpperLayer& layer : m.upper_layers()) {
    if (!layer.memory || layer.window) flops += window_attention;
    if (!layer.memory || layer.mlp) flops += mlp;
    if (!layer.memory) continue;
    flops += 2 * 2 * d * mh + 4 * selected * S * mh;
    if (layer.retrieval) {
      flops += 2 * d * r + 2 * r * chunks;
      // Only rows with a source are scored, of which there are fewer (Batch::room).
      if (config.train.route_weight > 0) flops += 2 * r * chunks * static_cast<double>(sequences) / 8;
    }
  }
  return 3 * (flops + 2 * d * static_cast<double>(m.vocab));
}

void require_memory(const TrainConfig& config, int64_t processes, at::Device device) {
  const bool kernels = device.is_cuda() && cuda_kernels() != nullptr && config.train.precision == "bf16";
  const MemoryEstimate need = estimate_memory(config, processes, kernels);
  const int64_t free = free_memory(device);
  if (need.total() <= free) return;
  throw ResourceError(
      "this run needs about {} of memory on {} (weights, gradients and optimizer {}, activations of a step of {} tokens {}), but {} are "
      "free. Make "
      "train.batch_tokens smaller, use train.precision = \"bf16\", or a smaller model",
      format_bytes(static_cast<double>(need.total())), device.str(),
      format_bytes(static_cast<double>(need.weights + need.gradients + need.optimizer)), config.train.batch_tokens,
      format_bytes(static_cast<double>(need.activations)), format_bytes(static_cast<double>(free)));
}

}  // namespace cairn
