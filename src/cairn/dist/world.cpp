#include "cairn/dist/world.h"

#include <ATen/Parallel.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "cairn/core/error.h"
#include "cairn/dist/aside.h"
#include "cairn/dist/gloo.h"
#include "cairn/dist/gpu.h"
#include "cairn/dist/process_number.h"

namespace cairn {
namespace {

class SingleWorld : public World {
 public:
  int64_t rank() const override { return 0; }
  int64_t size() const override { return 1; }
  void all_reduce_sum(at::Tensor&) override {}
  at::Tensor all_gather(const at::Tensor& tensor) override { return tensor.detach(); }
  void broadcast(at::Tensor&, int64_t root) override { CAIRN_CHECK(root == 0, "root {} in a world of one", root); }
  void barrier() override {}
};

// Processes of one machine that may each use every core take their part of them, unless someone has said how many threads they take: idle
// threads of the others would spin in each other's way.
void share_cores(int64_t processes) {
  cpu_set_t allowed;
  if (processes <= 1 || std::getenv("OMP_NUM_THREADS") != nullptr || sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return;
  if (CPU_COUNT(&allowed) < sysconf(_SC_NPROCESSORS_ONLN)) return;  // bound to cores of its own
  at::set_num_threads(static_cast<int>(std::max<int64_t>(1, at::get_num_threads() / processes)));
}

MakeGpuCollectives& registered() {
  static MakeGpuCollectives make = nullptr;
  return make;
}

}  // namespace

MakeGpuCollectives gpu_collectives() {
  const char* backend = std::getenv("CAIRN_DIST_BACKEND");
  const std::string wanted = backend == nullptr ? "" : backend;
  if (!wanted.empty() && wanted != "gloo" && wanted != "nccl") throw UserError("CAIRN_DIST_BACKEND={}: there are nccl and gloo", wanted);
  return wanted == "gloo" ? nullptr : registered();
}

bool register_gpu_collectives(MakeGpuCollectives make) {
  registered() = make;
  return true;
}

SumsAside* sums_aside(World& world) { return dynamic_cast<SumsAside*>(&world); }

std::shared_ptr<World> World::single() { return std::make_shared<SingleWorld>(); }

std::shared_ptr<World> World::from_environment(at::Device device) {
  const auto rendezvous = rendezvous_from_environment();
  if (!rendezvous || rendezvous->size == 1) return single();
  share_cores(rendezvous->local_size);
  return connect_gloo(*rendezvous, device);
}

bool gpu_collectives_can_be_recorded() { return gpu_collectives() != nullptr; }

ProcessNumber process_number() {
  const auto rendezvous = rendezvous_from_environment();
  return rendezvous ? ProcessNumber{rendezvous->rank, rendezvous->size} : ProcessNumber{};
}

at::Device local_gpu() {
  const auto rendezvous = rendezvous_from_environment();
  const int64_t number = rendezvous ? rendezvous->local_rank : 0, count = c10::impl::VirtualGuardImpl(at::kCUDA).deviceCount();
  if (number < 0 && rendezvous->size > 1) {
    throw UserError("LOCAL_RANK is not set: {} processes need to be told which GPU each takes; torchrun sets it", rendezvous->size);
  }
  if (number >= count) {
    throw UserError(
        "process {} of this machine (numbered from 0) has no GPU: {} can be seen. Start at most one process a GPU, and let every process "
        "see "
        "all of them (CUDA_VISIBLE_DEVICES; with SLURM --gpus-per-node instead of --gpus-per-task)",
        number, count);
  }
  const at::Device device(at::kCUDA, static_cast<c10::DeviceIndex>(std::max<int64_t>(number, 0)));
  c10::impl::VirtualGuardImpl(at::kCUDA).setDevice(device);
  return device;
}

}  // namespace cairn
