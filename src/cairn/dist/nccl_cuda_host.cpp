// Collectives between GPUs by NCCL, the library that the CUDA half of LibTorch loads. Its C functions are asked for by name in the running
// program and declared here (they have not changed within NCCL 2), so that building needs neither its header nor its library.
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <chrono>
#include <mutex>

#include "cairn/core/error.h"
#include "cairn/dist/gpu.h"

namespace cairn {
namespace {

using Clock = std::chrono::steady_clock;

struct Communicator;
struct UniqueId {
  char bytes[128];
};
enum Result : int { kSuccess = 0, kInProgress = 7 };
enum Type : int { kUint8 = 1, kInt32 = 2, kInt64 = 4, kHalf = 6, kFloat = 7, kDouble = 8, kBFloat16 = 9 };
constexpr int kSum = 0;

struct Library {
  Result (*get_unique_id)(UniqueId*);
  Result (*init_rank)(Communicator**, int size, UniqueId, int rank);
  Result (*destroy)(Communicator*);
  Result (*abort)(Communicator*);
  Result (*async_error)(Communicator*, Result*);
  const char* (*error_text)(Result);
  const char* (*last_error)(Communicator*);
  Result (*all_reduce)(const void* send, void* receive, size_t count, int type, int operation, Communicator*, cudaStream_t);
  Result (*all_gather)(const void* send, void* receive, size_t send_count, int type, Communicator*, cudaStream_t);
  Result (*broadcast)(const void* send, void* receive, size_t count, int type, int root, Communicator*, cudaStream_t);

  Library() {
    void* handle = dlopen("libnccl.so.2", RTLD_NOW);
    if (handle == nullptr)
      throw UserError("several GPUs need NCCL (libnccl.so.2), which comes with the CUDA packages of LibTorch: {}", dlerror());
    const auto find = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(handle, name));
      if (function == nullptr) throw UserError("libnccl.so.2 has no {}; NCCL 2.14 or later is needed", name);
    };
    find(get_unique_id, "ncclGetUniqueId");
    find(init_rank, "ncclCommInitRank");
    find(destroy, "ncclCommDestroy");
    find(abort, "ncclCommAbort");
    find(async_error, "ncclCommGetAsyncError");
    find(error_text, "ncclGetErrorString");
    find(last_error, "ncclGetLastError");
    find(all_reduce, "ncclAllReduce");
    find(all_gather, "ncclAllGather");
    find(broadcast, "ncclBroadcast");
  }
};

const Library& nccl() {
  static const Library library;
  return library;
}

Type type_of(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kInt:
      return kInt32;
    case at::kLong:
      return kInt64;
    case at::kHalf:
      return kHalf;
    case at::kFloat:
      return kFloat;
    case at::kDouble:
      return kDouble;
    case at::kBFloat16:
      return kBFloat16;
    default:
      CAIRN_CHECK(false, "no sum over processes of {}", c10::toString(tensor.scalar_type()));
      return kFloat;
  }
}

class Nccl final : public GpuCollectives {
 public:
  Nccl(const Rendezvous& r, at::Device device, World& host) : rank_(r.rank), size_(r.size), timeout_(r.timeout_seconds), device_(device) {
    const c10::cuda::CUDAGuard guard(device_);
    const at::Tensor id = at::zeros({static_cast<int64_t>(sizeof(UniqueId))}, at::kByte);
    auto* const bytes = reinterpret_cast<UniqueId*>(id.data_ptr());
    if (rank_ == 0) check(nccl().get_unique_id(bytes), "meeting");
    at::Tensor shared = id;
    host.broadcast(shared, 0);
    check(nccl().init_rank(&communicator_, static_cast<int>(size_), *bytes, static_cast<int>(rank_)), "meeting");
    C10_CUDA_CHECK(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming));
  }

  ~Nccl() override {
    if (communicator_ != nullptr) nccl().destroy(communicator_);
    cudaEventDestroy(event_);
  }

  void all_reduce_sum(at::Tensor& tensor) override {
    run("all-reduce", tensor, [&](cudaStream_t stream) {
      return nccl().all_reduce(tensor.data_ptr(), tensor.data_ptr(), tensor.numel(), type_of(tensor), kSum, communicator_, stream);
    });
  }

  void all_gather(at::Tensor& all, const at::Tensor& tensor) override {
    run("all-gather", tensor, [&](cudaStream_t stream) {
      return nccl().all_gather(tensor.const_data_ptr(), all.data_ptr(), tensor.nbytes(), kUint8, communicator_, stream);
    });
  }

  void broadcast(at::Tensor& tensor, int64_t root) override {
    run("broadcast", tensor, [&](cudaStream_t stream) {
      return nccl().broadcast(tensor.data_ptr(), tensor.data_ptr(), tensor.nbytes(), kUint8, static_cast<int>(root), communicator_, stream);
    });
  }

  std::string trouble() override {
    Result result = kSuccess;
    if (nccl().async_error(communicator_, &result) != kSuccess || (result != kSuccess && result != kInProgress)) {
      return fmt::format("NCCL reports \"{}\" ({})", nccl().error_text(result), nccl().last_error(communicator_));
    }
    const std::lock_guard lock(mutex_);
    if (latest_ == nullptr || cudaEventQuery(event_) != cudaErrorNotReady) return "";
    const double waited = std::chrono::duration<double>(Clock::now() - since_).count();
    return waited <= timeout_ ? "" : fmt::format("an {} between GPUs is not done after {:.0f} s (CAIRN_DIST_TIMEOUT)", latest_, waited);
  }

  void finish() override {
    const c10::cuda::CUDAGuard guard(device_);
    C10_CUDA_CHECK(cudaDeviceSynchronize());
  }

  void abort() override {
    nccl().abort(communicator_);
    communicator_ = nullptr;
  }

 private:
  void check(Result result, const char* what) const {
    if (result == kSuccess) return;
    throw UserError("{} between GPUs failed in process {} of {}: {} ({}). NCCL_DEBUG=INFO says more", what, rank_, size_,
                    nccl().error_text(result), nccl().last_error(communicator_));
  }

  template <typename Start>
  void run(const char* what, const at::Tensor& tensor, Start start) {
    CAIRN_CHECK(tensor.device() == device_ && tensor.is_contiguous(), "{} of a tensor on {}, this process works on {}", what,
                tensor.device().str(), device_.str());
    const c10::cuda::CUDAGuard guard(device_);
    const cudaStream_t stream = c10::cuda::getCurrentCUDAStream().stream();
    check(start(stream), what);
    cudaStreamCaptureStatus capturing = cudaStreamCaptureStatusNone;
    C10_CUDA_CHECK(cudaStreamIsCapturing(stream, &capturing));
    if (capturing != cudaStreamCaptureStatusNone) return;  // recorded work is not under way
    const std::lock_guard lock(mutex_);
    C10_CUDA_CHECK(cudaEventRecord(event_, stream));
    latest_ = what;
    since_ = Clock::now();
  }

  const int64_t rank_, size_;
  const double timeout_;
  const at::Device device_;
  Communicator* communicator_ = nullptr;
  std::mutex mutex_;             // of what follows: the watch looks at it
  cudaEvent_t event_ = nullptr;  // behind the latest collective
  const char* latest_ = nullptr;
  Clock::time_point since_;
};

[[maybe_unused]] const bool registered =
    register_gpu_collectives([](const Rendezvous& rendezvous, at::Device device, World& host) -> std::unique_ptr<GpuCollectives> {
      return std::make_unique<Nccl>(rendezvous, device, host);
    });

}  // namespace
}  // namespace cairn
