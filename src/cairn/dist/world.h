// Several processes that train one model: rank, size and the few collectives that Cairn needs, on c10d (Gloo on CPUs, NCCL on GPUs where
// linked). A world of one needs no network and is free. Started by torchrun, mpirun or SLURM through RANK, WORLD_SIZE, MASTER_ADDR,
// MASTER_PORT.
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
  static std::shared_ptr<World>
  from_environment();  // WORLD_SIZE absent or 1: single(); UserError if the variables are incomplete or peers do not come
};

// all_gather that autograd follows: the gradient of a rank's rows is the sum over ranks.
at::Tensor gather_with_gradient(const at::Tensor& tensor, const std::shared_ptr<World>& world);

}  // namespace cairn
