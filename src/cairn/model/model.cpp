#include "cairn/model/model.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/linear.h>

#include <utility>

#include "cairn/core/error.h"
#include "cairn/model/blocks.h"
#include "cairn/ops/norm/norm.h"

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

at::Tensor Model::lower(at::Tensor x, const SegmentStart& start, std::vector<WindowCache>* caches, at::ScalarType compute) const {
  const Weights weights(*parameters_, compute, cache_.get());
  if (caches != nullptr) caches->resize(config_.lower_layers);
  const SegmentPositions positions = segment_positions(config_, start, x.size(1), x);
  for (int64_t i = 0; i < config_.lower_layers; ++i) {
    const std::string prefix = "lower." + std::to_string(i);
    x = window_attention_block(x, weights, prefix + ".attention", config_, positions, caches != nullptr ? &(*caches)[i] : nullptr);
    x = x + mlp_block(x, weights, prefix + ".mlp", config_.mlp());
  }
  return x;
}

ChunkEncoding Model::encode_chunks(const at::Tensor& x, at::ScalarType compute) const {
  CAIRN_CHECK(x.size(1) % config_.chunk == 0, "{} tokens are not whole chunks of {}", x.size(1), config_.chunk);
  return cairn::encode_chunks(x, Weights(*parameters_, compute, cache_.get()), config_);
}

at::Tensor Model::upper(at::Tensor x, const SegmentStart& start, MemoryAccess* memory, std::vector<WindowCache>* caches,
                        const ForwardOptions& options, Trace* trace) const {
  const Weights weights(*parameters_, options.compute, cache_.get());
  const SegmentPositions positions = segment_positions(config_, start, x.size(1), x);
  size_t next_window = 0, next_query = static_cast<size_t>(config_.upper_windows());
  if (caches != nullptr) caches->resize(next_query + upper_layers_.size());
  MemoryContext context{memory, start.first, {}, trace};
  for (size_t i = 0; i < upper_layers_.size(); ++i) {
    const UpperLayer& layer = upper_layers_[i];
    const std::string prefix = "upper." + std::to_string(i);
    if (layer.window) {
      x = window_attention_block(x, weights, prefix + ".attention", config_, positions,
                                 caches != nullptr ? &(*caches)[next_window] : nullptr);
      ++next_window;
    }
    if (!layer.memory) {
      x = x + mlp_block(x, weights, prefix + ".mlp", config_.mlp());
      continue;
    }
    at::Tensor with_memory = x;  // a + u
    at::Tensor u;
    if (memory != nullptr && options.use_memory) {
      const at::Tensor h = rms_norm(x, weights.vector(prefix + ".norm.weight"), options.compute);
      u = memory_attention_block(h, weights, prefix, layer, config_, options, context,
                                 caches != nullptr ? &(*caches)[next_query] : nullptr);
      with_memory = x + u;
    }
    ++next_query;
    if (!layer.mlp) {
      x = with_memory;
      continue;
    }
    const at::Tensor m = mlp_block(with_memory, weights, prefix + ".mlp", config_.mlp());
    // Eq. 6: bypass (beta 0) and standard (beta 1) residual, and what lies between.
    x = (options.beta > 0 && u.defined()) ? x + options.beta * u + m : x + m;
  }
  return rms_norm(x, weights.vector("norm.weight"), options.compute);
}

at::Tensor Model::logits(const at::Tensor& hidden) const {
  const Weights weights(*parameters_, hidden.scalar_type(), cache_.get());
  const at::Tensor y = at::linear(hidden, weights.matrix("embed.weight"));
  return y.scalar_type() == at::kDouble ? y : y.to(at::kFloat);
}

ForwardResult Model::forward(const at::Tensor& tokens, const ForwardOptions& options) const {
  CAIRN_CHECK(tokens.dim() == 2 && tokens.scalar_type() == at::kLong, "tokens must be int64 [B,L]");
  ForwardResult result;
  const at::Tensor x = lower(embed(tokens), 0, nullptr, options.compute);
  const int64_t C = x.size(1) / config_.chunk;
  ChunkEncoding encoding = encode_chunks(x.narrow(1, 0, C * config_.chunk), options.compute);
  result.trace.landmarks = encoding.landmarks;
  TrainingMemory memory(std::move(encoding), options.noise_key, options.noise_row);
  result.hidden = upper(x, 0, &memory, nullptr, options, &result.trace);
  return result;
}

}  // namespace cairn
