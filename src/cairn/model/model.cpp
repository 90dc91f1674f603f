#include "cairn/model/model.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/linear.h>

#include <utility>

#include "cairn/core/error.h"
#include "cairn/model/blocks.h"
#include "cairn/model/weights.h"
#include "cairn/ops/norm/norm.h"
#include "cairn/ops/projection/projection.h"

namespace cairn {
namespace {

// The memory of one training batch: three tensors, all scores at hand.
class TrainingMemory : public MemoryAccess {
 public:
  TrainingMemory(ChunkEncoding encoding, uint64_t noise_key, int64_t noise_row)
      : encoding_(std::move(encoding)), noise_key_(noise_key), noise_row_(noise_row) {}

  Retrieved retrieve(const at::Tensor& rq, int64_t top_k, const Visibility& visibility, RetrievalTrace* trace) override {
    Retrieved found;
    const at::Tensor score = landmark_scores(rq, encoding_.landmarks);
    // Each retrieval draws noise of its own.
    const uint64_t key = noise_key_ == 0 ? 0 : noise_key_ + 0x9e3779b97f4a7c15ULL * ++retrievals_;
    found.selection = select_from_scores(score.detach(), top_k, visibility, key, noise_row_);
    found.score = score.gather(-1, found.selection.index.clamp_min(0)) * (found.selection.index >= 0).to(score.scalar_type());
    if (trace != nullptr) trace->score = score;
    return found;
  }

  void gather(const at::Tensor& index, at::Tensor* k, at::Tensor* v, at::Tensor* local_index) override {
    *k = encoding_.k;
    *v = encoding_.v;
    *local_index = index;
  }

 private:
  ChunkEncoding encoding_;
  uint64_t noise_key_ = 0, retrievals_ = 0;
  int64_t noise_row_ = 0;
};

}  // namespace

Model::Model(ModelConfig config, std::shared_ptr<Parameters> parameters)
    : config_(std::move(config)),
      upper_layers_(config_.upper_layers()),
      parameters_(std::move(parameters)),
      cache_(std::make_shared<WeightCache>()) {
  config_.validate();
}

at::Tensor Model::embed(const at::Tensor& tokens) const { return at::embedding((*parameters_)["embed.weight"], tokens); }

at::Tensor Model::lower(at::Tensor embedded, const SegmentStart& start, std::vector<WindowCache>* caches, at::ScalarType compute) const {
  const Weights weights(*parameters_, compute, cache_.get());
  if (caches != nullptr) caches->resize(config_.lower_layers);
  const SegmentPositions positions = segment_positions(config_, start, embedded.size(1), embedded);
  Residual x{std::move(embedded), {}};
  for (int64_t i = 0; i < config_.lower_layers; ++i) {
    const std::string prefix = "lower." + std::to_string(i);
    window_attention_block(x, weights, prefix + ".attention", config_, positions, caches != nullptr ? &(*caches)[i] : nullptr);
    mlp_block(x, x, weights, prefix + ".mlp", config_.mlp());
  }
  return x.sum();
}

ChunkEncoding Model::encode_chunks(const at::Tensor& x, at::ScalarType compute) const {
  CAIRN_CHECK(x.size(1) % config_.chunk == 0, "{} tokens are not whole chunks of {}", x.size(1), config_.chunk);
  return cairn::encode_chunks(x, Weights(*parameters_, compute, cache_.get()), config_);
}

at::Tensor Model::upper(at::Tensor midpoint, const SegmentStart& start, MemoryAccess* memory, std::vector<WindowCache>* caches,
                        const ForwardOptions& options, Trace* trace) const {
  const Weights weights(*parameters_, options.compute, cache_.get());
  const SegmentPositions positions = segment_positions(config_, start, midpoint.size(1), midpoint);
  Residual x{std::move(midpoint), {}};
  size_t next_window = 0, next_query = static_cast<size_t>(config_.upper_windows());
  if (caches != nullptr) caches->resize(next_query + upper_layers_.size());
  MemoryContext context{memory, start.first, {}, trace};
  for (size_t i = 0; i < upper_layers_.size(); ++i) {
    const UpperLayer& layer = upper_layers_[i];
    const std::string prefix = "upper." + std::to_string(i);
    if (layer.window) {
      window_attention_block(x, weights, prefix + ".attention", config_, positions, caches != nullptr ? &(*caches)[next_window] : nullptr);
      ++next_window;
    }
    if (!layer.memory) {
      mlp_block(x, x, weights, prefix + ".mlp", config_.mlp());
      continue;
    }
    at::Tensor o;
    if (memory != nullptr && options.use_memory) {
      o = memory_attention_block(x, weights, prefix, layer, config_, options, context,
                                 caches != nullptr ? &(*caches)[next_query] : nullptr);
    }
    ++next_query;
    // Eq. 6: the MLP reads x + u, u = W_o o. What goes on is x (bypass, beta 0), x + u (standard, beta 1), or what lies between.
    const at::Tensor w = o.defined() ? weights.matrix(prefix + ".o_proj.weight") : at::Tensor();
    if (o.defined() && (options.beta == 1 || !layer.mlp)) x.add_linear(o, w);
    if (!layer.mlp) continue;
    if (!o.defined() || options.beta == 1) {
      mlp_block(x, x, weights, prefix + ".mlp", config_.mlp());
      continue;
    }
    Residual with_memory{x.x, {}};
    if (options.beta > 0) {
      with_memory.delta = at::linear(o, w);
      x.x = x.x + options.beta * with_memory.delta;
    } else {
      with_memory.add_linear(o, w);
    }
    mlp_block(with_memory, x, weights, prefix + ".mlp", config_.mlp());
  }
  return x.norm(weights.vector("norm.weight"), options.compute);
}

at::Tensor Model::logits(const at::Tensor& hidden) const {
  const Weights weights(*parameters_, hidden.scalar_type(), cache_.get());
  return norm_linear(hidden, {}, weights.matrix("embed.weight"), {}, hidden.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
}

ForwardResult Model::forward(const at::Tensor& tokens, const ForwardOptions& options) const {
  CAIRN_CHECK(tokens.dim() == 2 && tokens.scalar_type() == at::kLong, "tokens must be int64 [B,L]");
  const TrainingCast cast(*cache_, *parameters_, options.compute);
  ForwardResult result;
  const at::Tensor embedded = embed(tokens);
  SegmentStart start(0);  // with a table that both halves use
  if (config_.positions == "rope")
    start.table = rotary_table(0, embedded.size(1), config_.head_dim, config_.rope_theta, embedded.device(), embedded.scalar_type());
  const at::Tensor x = lower(embedded, start, nullptr, options.compute);
  const int64_t C = x.size(1) / config_.chunk;
  // A part would come back from the backward as a whole tensor of zeros and a copy.
  ChunkEncoding encoding = encode_chunks(C * config_.chunk == x.size(1) ? x : x.narrow(1, 0, C * config_.chunk), options.compute);
  result.trace.landmarks = encoding.landmarks;
  TrainingMemory memory(std::move(encoding), options.noise_key, options.noise_row);
  result.hidden = upper(x, start, &memory, nullptr, options, &result.trace);
  return result;
}

}  // namespace cairn
