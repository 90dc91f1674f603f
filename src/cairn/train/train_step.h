// One optimizer step after another: batch to the device, forward, backward with the sum of gradients over processes, AdamW. On a GPU a step
// whose shapes stay the same is recorded once, the whole of it, as a CUDA graph and replayed: a thousand launches for the price of one, and
// next to nothing passes between two kernels.
//
// What changes from step to step lies on the device: the batch (uploaded beside the step before), the learning rate, AdamW's count, the
// number of the batch's first sequence (Gumbel noise). What is a number in the recording - length, top_k, alpha, beta, weights of the
// losses - makes a step of its own kind: it is queued kernel by kernel while such a number changes (ramps), and recorded after kWarm equal
// steps. So both ways compute the same, and in deterministic mode the same bits. CAIRN_PLAIN_STEPS=1 switches recording off, for
// comparisons.
#pragma once

#include <c10/core/Event.h>
#include <c10/core/Stream.h>

#include <array>
#include <memory>
#include <optional>
#include <tuple>

#include "cairn/ops/cuda/recorded.h"
#include "cairn/train/gradient_sum.h"
#include "cairn/train/optimizer.h"
#include "cairn/train/step.h"

namespace cairn {

class TrainStep {
 public:
  static constexpr int64_t kWarm = 2;  // equal steps before one is recorded: kernels are loaded, libraries have chosen theirs

  // The objects live as long as this one. One TrainStep a model (hooks at its parameters).
  TrainStep(std::shared_ptr<Model> model, Optimizer* optimizer, TrainConfig config, std::shared_ptr<World> world, at::Device device);
  ~TrainStep();

  // A step with this process's share of the batch, from make_batch(), in main memory (pinned, if there is a GPU) or on the device. Queued;
  // the host runs at most two steps ahead of the GPU. The result is valid until the next call.
  const StepLosses& run(const Batch& batch, const Moment& moment);
  const Batch& batch() const { return batch_; }  // that of the last step, on the device

  bool recorded() const { return work_ != nullptr; }    // the last step was, or will be, replayed
  int64_t recordings() const { return recordings_; }    // made so far
  const std::string& obstacle() const { return why_; }  // why a step could not be recorded; empty: none was met

 private:
  using Kind = std::tuple<int64_t, int64_t, int64_t, int64_t, double, double, double, double>;

  void place(const Batch& batch);
  void compute(const Moment& moment);
  bool can_record(const Moment& moment) const;
  void record(const Moment& moment);

  std::shared_ptr<Model> model_;
  Optimizer* optimizer_;
  TrainConfig config_;
  std::shared_ptr<World> world_;
  at::Device device_;
  GradientSum sum_;

  struct Slot {  // a batch on its way
    at::Tensor packed;
    std::optional<c10::Event> filled, taken;
  };
  std::array<Slot, 2> slots_;
  int64_t turn_ = 0;
  std::optional<c10::Stream> upload_;
  Batch batch_;           // on a GPU it stays where it is while shapes stay the same
  at::Tensor first_row_;  // int64 scalar on the GPU: batch_.first, for recorded work

  StepLosses losses_;
  std::optional<Kind> kind_;
  int64_t equal_steps_ = 0, recordings_ = 0;
  std::unique_ptr<RecordedWork> work_;
  std::string why_;
};

}  // namespace cairn
