#include "cairn/infer/graph_decoder.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include <utility>
#include <vector>

#include "cairn/core/error.h"
#include "cairn/infer/memory_access.h"
#include "cairn/ops/cuda/kernels.h"

namespace cairn {
namespace {

bool full(const std::vector<WindowCache>& caches, int64_t count, int64_t width) {
  if (static_cast<int64_t>(caches.size()) < count) return false;
  for (int64_t i = 0; i < count; ++i) {
    if (!caches[i].k.defined() || caches[i].k.size(1) != width) return false;
  }
  return true;
}

// Copies of our own, which then change in place.
void own(std::vector<WindowCache>* caches) {
  for (WindowCache& cache : *caches) {
    if (cache.k.defined()) cache.k = cache.k.clone();
    if (cache.v.defined()) cache.v = cache.v.clone();
    cache.in_place = true;
  }
}
void give_up(std::vector<WindowCache>* caches) {
  for (WindowCache& cache : *caches) cache.in_place = false;
}

}  // namespace

bool GraphDecoder::supports(const Reader& reader, const ReaderState& state) {
  const ModelConfig& config = reader.model().config();
  const CudaKernels* own = cuda_kernels();
  return own != nullptr && own->record != nullptr && reader.device().is_cuda() && state.upper_valid && state.upper_with_memory &&
         reader.uses_memory() && config.retrieval_stride != "chunk" && !config.exclude_window && config.window > 1 && state.chunks() > 0 &&
         full(state.lower, config.lower_layers, config.window - 1) && full(state.upper, config.upper_windows(), config.window - 1) &&
         state.tail.defined() && state.tail.size(1) == config.upper_reach();
}

GraphDecoder::GraphDecoder(const Reader& reader, const ReaderState& state) : reader_(reader), state_(state.fork()) {
  const at::NoGradGuard no_gradient;
  CAIRN_CHECK(supports(reader, state), "this state cannot be decoded as recorded work");
  const ModelConfig& config = reader.model().config();
  const int64_t B = state.batch();
  own(&state_->lower);
  own(&state_->upper);
  state_->tail = state_->tail.clone();
  tokens_ = at::full({B, 1}, 0, at::TensorOptions(at::kLong).device(reader.device()));
  position_ = at::full({}, state.end, tokens_.options());
  partial_ = at::empty({B, config.chunk, config.d_model}, state_->tail.options());
  pending_ = state_->partial.defined() ? state_->partial.size(1) : 0;
  if (pending_ > 0) partial_.narrow(1, 0, pending_).copy_(state_->partial);
  x_ = at::empty({B, 1, config.d_model}, state_->tail.options());
  logits_ = at::empty({B, 1, config.vocab}, x_.options().dtype(at::kFloat));
}

void GraphDecoder::step() {
  const Model& model = reader_.model();
  const ForwardOptions options = reader_.forward_options();
  const ModelConfig& config = model.config();
  SegmentStart start(state_->end);
  if (config.positions == "rope") start.table = rotary_table(position_, 1, config.head_dim, config.rope_theta, x_.scalar_type());
  const at::Tensor x = model.lower(model.embed(tokens_), start, &state_->lower, options.compute);
  PagedAccess access(state_->memory, {}, reader_.shares(*state_));
  logits_.copy_(model.logits(model.upper(x, start, &access, &state_->upper, options, nullptr)));
  reader_.agree(logits_);
  x_.copy_(x);
  at::Tensor& tail = state_->tail;
  if (tail.size(1) > 0) tail.copy_(at::cat({tail.narrow(1, 1, tail.size(1) - 1), x}, 1));
  position_.add_(1);
}

void GraphDecoder::complete_chunk() {
  if (state_->holds_end) state_->memory.append(reader_.model().encode_chunks(partial_, reader_.forward_options().compute));
  pending_ = 0;
  recorded_.reset();  // one chunk more in sight
}

at::Tensor GraphDecoder::advance(const at::Tensor& tokens) {
  const at::NoGradGuard no_gradient;
  tokens_.copy_(tokens);
  if (!recorded_) recorded_ = cuda_kernels()->record([this] { step(); });
  recorded_->replay();
  partial_.narrow(1, pending_, 1).copy_(x_);
  ++state_->end;
  if (++pending_ == partial_.size(1)) complete_chunk();
  return logits_;
}

std::unique_ptr<ReaderState> GraphDecoder::finish() {
  recorded_.reset();
  state_->partial = partial_.narrow(1, 0, pending_).clone();
  give_up(&state_->lower);
  give_up(&state_->upper);
  return std::move(state_);
}

StepDecoder::StepDecoder(const Reader& reader, ReaderState& state, int64_t steps) : reader_(reader), state_(state), steps_(steps) {}

at::Tensor StepDecoder::advance(const at::Tensor& tokens) {
  // Not before the first step: that one may still have to run the upper half over the tail.
  if (!graph_ && steps_ >= kWorthRecording && GraphDecoder::supports(reader_, state_)) graph_.emplace(reader_, state_);
  return graph_ ? graph_->advance(tokens) : reader_.advance_last(state_, tokens, 1);
}

void StepDecoder::finish() {
  if (!graph_) return;
  state_ = std::move(*graph_->finish());
  graph_.reset();
}

}  // namespace cairn
