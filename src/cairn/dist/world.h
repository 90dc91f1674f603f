// Several processes that work on one model: rank, size and the few collectives that Cairn needs. Tensors in main memory go through c10d's
// Gloo, tensors on a GPU through NCCL (in the GPU program), on the current stream: nothing waits for them. A world of one needs no network
// and is free. Started by torchrun, mpirun or SLURM's srun (docs/several-gpus.md).
//
// A process that dies ends the others: with a UserError from the next collective, or, where NCCL is in use, at the latest after about
// fifteen seconds with a line on stderr and exit code 2.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>

namespace cairn {

class World {
 public:
  virtual ~World() = default;
  virtual int64_t rank() const = 0;
  virtual int64_t size() const = 0;
  virtual void all_reduce_sum(at::Tensor& tensor) = 0;  // in place, no autograd
  virtual at::Tensor all_gather(
      const at::Tensor& tensor) = 0;  // [n, ...] -> [size * n, ...], rank order, no autograd; equal shapes on all ranks
  virtual void broadcast(at::Tensor& tensor, int64_t root) = 0;  // in place
  virtual void barrier() = 0;
  static std::shared_ptr<World> single();  // a world of one
  // The processes that were started together; single() if this one was started alone. device: where the tensors will be that travel (main
  // memory is always served). UserError if variables are incomplete, or the others do not come within CAIRN_DIST_TIMEOUT seconds (300).
  // CAIRN_DIST_BACKEND=gloo: tensors on a GPU go through main memory.
  static std::shared_ptr<World> from_environment(at::Device device = at::kCPU);
};

// The GPU of this process: the one of its number among the processes of this machine (LOCAL_RANK and the like), the first if it was started
// alone; it becomes the calling thread's current device. UserError if the machine has fewer. Needs a working CUDA.
at::Device local_gpu();

// all_gather that autograd follows: the gradient of a rank's rows is the sum over ranks.
at::Tensor gather_with_gradient(const at::Tensor& tensor, const std::shared_ptr<World>& world);

}  // namespace cairn
