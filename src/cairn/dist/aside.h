// Sums over processes that go on beside other work: the gradients of the upper layers travel while the lower layers' are still computed.
#pragma once

#include <ATen/core/Tensor.h>

#include "cairn/dist/world.h"

namespace cairn {

class SumsAside {
 public:
  virtual ~SumsAside() = default;
  // Starts the sum of `tensor` over the processes, in place, behind what is queued on the current stream. On a GPU it runs on a stream and
  // with a communicator of its own (few thread blocks: computing goes on), in main memory on Gloo's threads; CAIRN_DIST_BACKEND=gloo with
  // tensors on a GPU: it is done on return. `tensor` is contiguous and lies still until join_sums(). All processes start the same sums in
  // the same order. Any thread, one at a time. UserError if another process has ended.
  virtual void start_sum(const at::Tensor& tensor) = 0;
  // What is queued on the current stream from here on (in main memory: the caller) finds all sums done.
  virtual void join_sums() = 0;
  // Whether collectives can be part of recorded work (a CUDA graph); those that go through main memory cannot.
  virtual bool can_be_recorded() const = 0;
  // Recorded work with collectives in it was queued on the current stream: the watch looks after it as after a collective.
  virtual void replayed() = 0;
};

// Null for a world of one. Lives as long as the world.
SumsAside* sums_aside(World& world);

}  // namespace cairn
