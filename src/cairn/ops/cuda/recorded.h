// Work on a GPU that was recorded once and is queued again as a whole (a CUDA graph): hundreds of launches for the price of one.
#pragma once

namespace cairn {

// Tensors that the work read and wrote keep their places: fill inputs in place, replay, read outputs. What the work allocated belongs to
// the recording. Queued on the current stream.
class RecordedWork {
 public:
  virtual ~RecordedWork() = default;
  virtual void replay() = 0;
};

}  // namespace cairn
