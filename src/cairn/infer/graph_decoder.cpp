#include "cairn/infer/graph_decoder.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <utility>
#include <vector>

#include "cairn/core/error.h"
#include "cairn/dist/process_number.h"
#include "cairn/infer/memory_access.h"
#include "cairn/ops/cuda/kernels.h"
#include "cairn/ops/step/kernels.h"

namespace cairn {
namespace {

bool full(const std::vector<WindowCache>& caches, int64_t count, int64_t width) {
  if (static_cast<int64_t>(caches.size()) < count) return false;
  for (int64_t i = 0; i < count; ++i) {
    if (!caches[i].k.defined() || caches[i].k.size(1) != width) return false;
  }
  return true;
}

// Columns of the tokens end - count .. end - 1 in a ring of `width`.
at::Tensor columns_of(int64_t end, int64_t count, int64_t width, at::Device device) {
  return at::arange(end - count, end, at::TensorOptions(at::kLong).device(device)).remainder(width);
}

// The columns of x [B,n,...], which belong to the tokens before `end`, as a ring of `width` >= n.
at::Tensor to_ring(const at::Tensor& x, int64_t end, int64_t width) {
  std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end());
  const int64_t count = sizes[1];
  sizes[1] = width;
  at::Tensor ring = at::zeros(sizes, x.options());
  if (count > 0) ring.index_copy_(1, columns_of(end, count, width, x.device()), x);
  return ring;
}
at::Tensor from_ring(const at::Tensor& ring, int64_t end, int64_t count) {
  return count == 0 ? ring : ring.index_select(1, columns_of(end, count, ring.size(1), ring.device()));
}

void to_rings(std::vector<WindowCache>* caches, int64_t end, int64_t window, const at::Tensor& position) {
  for (WindowCache& cache : *caches) {
    if (!cache.k.defined()) continue;
    cache.k = to_ring(cache.k, end, window);
    cache.v = to_ring(cache.v, end, window);
    cache.position = position;
  }
}
void from_rings(std::vector<WindowCache>* caches, int64_t end, int64_t window) {
  for (WindowCache& cache : *caches) {
    if (!cache.k.defined()) continue;
    cache.k = from_ring(cache.k, end, window - 1);
    cache.v = from_ring(cache.v, end, window - 1);
    cache.position = at::Tensor();
  }
}

}  // namespace

bool GraphDecoder::supports(const Reader& reader, const ReaderState& state) {
  const ModelConfig& config = reader.model().config();
  const CudaKernels* own = cuda_kernels();
  if (reader.world() != nullptr && !gpu_collectives_can_be_recorded()) return false;
  return own != nullptr && own->record != nullptr && reader.device().is_cuda() && state.upper_valid && state.upper_with_memory &&
         reader.uses_memory() && config.retrieval_stride != "chunk" && !config.exclude_window && config.window > 1 && state.chunks() > 0 &&
         full(state.lower, config.lower_layers, config.window - 1) && full(state.upper, config.upper_windows(), config.window - 1) &&
         state.tail.defined() && state.tail.size(1) == config.upper_reach();
}

GraphDecoder::GraphDecoder(const Reader& reader, const ReaderState& state) : reader_(reader), state_(state.fork()) {
  const at::NoGradGuard no_gradient;
  CAIRN_CHECK(supports(reader, state), "this state cannot be decoded as recorded work");
  const ModelConfig& config = reader.model().config();
  const int64_t B = state.batch(), pending = state_->partial.defined() ? state_->partial.size(1) : 0;
  const auto longs = at::TensorOptions(at::kLong).device(reader.device());
  CAIRN_CHECK(pending == state_->end % config.chunk, "{} tokens behind the last chunk, position {}", pending, state_->end);
  end_.position = at::full({}, state_->end, longs);
  to_rings(&state_->lower, state_->end, config.window, end_.position);
  to_rings(&state_->upper, state_->end, config.window, end_.position);
  end_.tail = to_ring(state_->tail, state_->end, state_->tail.size(1));
  end_.partial = at::zeros({B, config.chunk, config.d_model}, state_->tail.options());
  if (pending > 0) end_.partial.narrow(1, 0, pending).copy_(state_->partial);
  end_.best = at::zeros({B, 1}, longs);
  end_.arrived = at::zeros({1}, longs.dtype(at::kInt));
}

void GraphDecoder::step() {
  const Model& model = reader_.model();
  const ForwardOptions options = reader_.forward_options();
  const ModelConfig& config = model.config();
  SegmentStart start(state_->end);
  if (config.positions == "rope")
    start.table = rotary_table(end_.position, 1, config.head_dim, config.rope_theta, end_.partial.scalar_type());
  end_.x = model.lower(model.embed(end_.best), start, &state_->lower, options.compute);
  PagedAccess access(state_->memory, {}, reader_.shares(*state_));
  end_.logits = model.logits(model.upper(end_.x, start, &access, &state_->upper, options, nullptr));
  reader_.agree(end_.logits);
  end_step(end_);
}

void GraphDecoder::complete_chunk() {
  if (state_->holds_end) state_->memory.append(reader_.model().encode_chunks(end_.partial, reader_.forward_options().compute));
  const ChunkMemory& memory = state_->memory;
  const bool all_chosen = memory.chunks() <= reader_.forward_options().top_k;  // then the number of slots grows, too
  if (!lasts_ || all_chosen || memory.pages() != recorded_pages_) recorded_.reset();
}

at::Tensor GraphDecoder::advance(const at::Tensor& tokens) {
  const at::NoGradGuard no_gradient;
  if (tokens.const_data_ptr() != end_.best.const_data_ptr()) end_.best.copy_(tokens);
  if (!warm_) {
    step();
    warm_ = true;
  } else {
    if (!recorded_) {
      StepRecording recording(end_.position);  // weights, landmarks and the rings' other columns are there before it runs
      recorded_ = cuda_kernels()->record([this] { step(); });
      recorded_pages_ = state_->memory.pages();
      // Where processes share the memory, what each of them gives to a selection changes with every chunk.
      lasts_ = recording.lasting_selections == recording.selections && reader_.world() == nullptr;
    }
    recorded_->replay();
  }
  if (++state_->end % end_.partial.size(1) == 0) complete_chunk();
  return end_.logits;
}

std::unique_ptr<ReaderState> GraphDecoder::finish() {
  recorded_.reset();
  const int64_t window = reader_.model().config().window;
  state_->partial = end_.partial.narrow(1, 0, state_->end % end_.partial.size(1)).clone();
  state_->tail = from_ring(end_.tail, state_->end, end_.tail.size(1));
  from_rings(&state_->lower, state_->end, window);
  from_rings(&state_->upper, state_->end, window);
  return std::move(state_);
}

StepDecoder::StepDecoder(const Reader& reader, ReaderState& state, int64_t steps) : reader_(reader), state_(state), steps_(steps) {}

at::Tensor StepDecoder::advance(const at::Tensor& tokens) {
  // Not before the first step: that one may still have to run the upper half over the tail.
  if (!graph_ && steps_ >= kWorthRecording && GraphDecoder::supports(reader_, state_)) graph_.emplace(reader_, state_);
  if (graph_) return graph_->advance(tokens);
  return logits_ = reader_.advance_last(state_, tokens, 1);
}

at::Tensor StepDecoder::best() const { return graph_ ? graph_->best() : logits_.select(1, 0).argmax(-1, /*keepdim=*/true); }

void StepDecoder::finish() {
  if (!graph_) return;
  state_ = std::move(*graph_->finish());
  graph_.reset();
}

}  // namespace cairn
