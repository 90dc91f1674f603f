// Collectives between GPUs, as the GPU program has them (nccl_cuda_host.cpp registers itself; the program without CUDA has none). Private
// to the room.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>

#include "cairn/dist/launch.h"
#include "cairn/dist/world.h"

namespace cairn {

// All on the current stream of the tensor's device; nothing is waited for. Contracts: World. Tensors are contiguous.
class GpuCollectives {
 public:
  virtual ~GpuCollectives() = default;
  virtual void all_reduce_sum(at::Tensor& tensor) = 0;
  virtual void all_gather(at::Tensor& all, const at::Tensor& tensor) = 0;
  virtual void broadcast(at::Tensor& tensor, int64_t root) = 0;
  // Contracts: SumsAside (aside.h).
  virtual void start_sum(const at::Tensor& tensor) = 0;
  virtual void join_sums() = 0;
  virtual void replayed() = 0;
  // What is wrong with a collective that was started, or "". Called by the watch from a thread of its own.
  virtual std::string trouble() = 0;
  virtual void finish() = 0;  // waits until all that was started is done
  virtual void abort() = 0;   // ends what cannot be done any more; nothing else is called afterwards
};

// `host` connects the same processes and lives longer.
using MakeGpuCollectives = std::unique_ptr<GpuCollectives> (*)(const Rendezvous& rendezvous, at::Device device, World& host);
MakeGpuCollectives gpu_collectives();  // null: this program has none
bool register_gpu_collectives(MakeGpuCollectives make);

}  // namespace cairn
