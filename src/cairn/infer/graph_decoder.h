// Decoding one token a step as recorded work (a CUDA graph): the step's some fifty small kernels cost one launch, so a token takes what
// the GPU needs for it, not what the host needs to ask for it.
//
// What changes from step to step lies on the device: the position, and tensors that change in place. Window caches and tail are rings in
// which a token has its column by its position. When a chunk is complete it is encoded and appended. The recording sees it, because what is
// visible is decided by the position; the step is recorded again when the memory has begun a new page (or where no kernel of ours selects:
// with every chunk).
#pragma once

#include <memory>
#include <optional>

#include "cairn/infer/reader.h"
#include "cairn/ops/cuda/recorded.h"
#include "cairn/ops/step/step.h"

namespace cairn {

class GraphDecoder {
 public:
  // Whether steps of `state` can be recorded: on a GPU, in a program with kernels, the windows full, the upper half already run behind the
  // text, retrieval per token and no chunk leaving sight inside a chunk (exclude_window).
  static bool supports(const Reader& reader, const ReaderState& state);

  // Works on a fork of `state`, which stays as it is and must not be edited meanwhile.
  GraphDecoder(const Reader& reader, const ReaderState& state);

  // As Reader::advance_last(state, tokens [B,1], 1): logits fp32 [B,1,vocab], good until the next call.
  at::Tensor advance(const at::Tensor& tokens);
  // The most likely next tokens [B,1] behind the last advance(), good until the next; may be given to it.
  const at::Tensor& best() const { return end_.best; }
  // The state behind all tokens so far, as advance_last() would have left it. The decoder is used up.
  std::unique_ptr<ReaderState> finish();

 private:
  void step();            // what is recorded
  void complete_chunk();  // the partial chunk joins the memory
  const Reader& reader_;
  std::unique_ptr<ReaderState> state_;  // its caches and tail are rings of our own, changed in place
  StepEnd end_;                         // best: also where the tokens of the next step are read
  bool warm_ = false;                   // a step has run without being recorded: kernels and weights are there
  std::unique_ptr<RecordedWork> recorded_;
  int64_t recorded_pages_ = 0;  // of the memory
  bool lasts_ = false;          // the recording sees chunks that are completed later
};

// One token a step behind a state: as recorded work where that is possible and so many steps are worth the recording, else step by step.
class StepDecoder {
 public:
  static constexpr int64_t kWorthRecording = 24;  // steps; a recording costs about as much as four of them

  // state must outlive this; it moves on with the tokens, at the latest at finish().
  StepDecoder(const Reader& reader, ReaderState& state, int64_t steps);
  at::Tensor advance(const at::Tensor& tokens);  // [B,1] -> logits fp32 [B,1,vocab], good until the next call
  at::Tensor best() const;                       // the most likely next tokens [B,1] behind the last advance(), good until the next
  void finish();
  bool records() const { return graph_.has_value(); }

 private:
  const Reader& reader_;
  ReaderState& state_;
  const int64_t steps_;
  std::optional<GraphDecoder> graph_;
  at::Tensor logits_;  // of the last step, where it was a single one
};

}  // namespace cairn
