// Collectives between GPUs by NCCL, the library that the CUDA half of LibTorch loads. Its C functions are asked for by name in the running
// program and declared here (they have not changed within NCCL 2), so that building needs neither its header nor its library.
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <chrono>
#include <climits>
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
enum Result : int { kSuccess = 0, kInvalidArgument = 4, kInProgress = 7 };
enum Type : int { kUint8 = 1, kInt32 = 2, kInt64 = 4, kHalf = 6, kFloat = 7, kDouble = 8, kBFloat16 = 9 };
constexpr int kSum = 0;

// ncclConfig_t as of 2.17. NCCL takes so much of it as `size` says, and the rest as not given.
constexpr int kNotGiven = INT_MIN;
struct Config {
  size_t size = sizeof(Config);
  unsigned magic = 0xcafebeef, version = 21700;
  int blocking = kNotGiven, cluster_size = kNotGiven, least_blocks = kNotGiven, most_blocks = kNotGiven;
  const char* net = nullptr;
};

// Thread blocks that sums beside other work may take of a GPU (each has a multiprocessor nearly for itself). NCCL_MAX_CTAS counts instead
// where it is set.
constexpr int kBlocksAside = 8;

struct Library {
  Result (*get_unique_id)(UniqueId*);
  Result (*init_rank)(Communicator**, int size, UniqueId, int rank);
  Result (*init_rank_config)(Communicator**, int size, UniqueId, int rank, Config*) = nullptr;  // null before 2.17
  Result (*version)(int*);
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
    find(version, "ncclGetVersion");
    int number = 0;
    if (version(&number) == kSuccess && number >= 21700) find(init_rank_config, "ncclCommInitRankConfig");
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
  Nccl(const Rendezvous& r, at::Device device, World& host)
      : rank_(r.rank), size_(r.size), timeout_(r.timeout_seconds), device_(device), host_(host) {
    const c10::cuda::CUDAGuard guard(device_);
    const UniqueId id = agree_on_id();
    check(nccl().init_rank(&communicator_, static_cast<int>(size_), id, static_cast<int>(rank_)), "meeting");
    C10_CUDA_CHECK(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming));
  }

  ~Nccl() override {
    for (Communicator* const communicator : {aside_, communicator_}) {
      if (communicator != nullptr) nccl().destroy(communicator);
    }
    for (const cudaEvent_t event : {event_, ready_, done_}) {
      if (event != nullptr) cudaEventDestroy(event);
    }
    if (aside_stream_ != nullptr) cudaStreamDestroy(aside_stream_);
  }

  void all_reduce_sum(at::Tensor& tensor) override {
    run("all-reduce", tensor, [&](cudaStream_t stream) {
      return nccl().all_reduce(tensor.data_ptr(), tensor.data_ptr(), tensor.numel(), type_of(tensor), kSum, communicator_, stream);
    });
  }

  void start_sum(const at::Tensor& tensor) override {
    const c10::cuda::CUDAGuard guard(device_);
    const cudaStream_t stream = c10::cuda::getCurrentCUDAStream().stream();
    if (aside_ == nullptr) open_aside();
    C10_CUDA_CHECK(cudaEventRecord(ready_, stream));
    C10_CUDA_CHECK(cudaStreamWaitEvent(aside_stream_, ready_, 0));
    void* const data = tensor.data_ptr();
    run_on(aside_stream_, "all-reduce", tensor,
           [&](cudaStream_t aside) { return nccl().all_reduce(data, data, tensor.numel(), type_of(tensor), kSum, aside_, aside); });
    started_ = true;
  }

  void join_sums() override {
    if (!started_) return;
    const c10::cuda::CUDAGuard guard(device_);
    C10_CUDA_CHECK(cudaEventRecord(done_, aside_stream_));
    C10_CUDA_CHECK(cudaStreamWaitEvent(c10::cuda::getCurrentCUDAStream().stream(), done_, 0));
    started_ = false;
  }

  void replayed() override {
    const c10::cuda::CUDAGuard guard(device_);
    mark("all-reduce", c10::cuda::getCurrentCUDAStream().stream());
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
    const std::lock_guard lock(mutex_);
    for (Communicator* const communicator : {communicator_, aside_}) {
      Result result = kSuccess;
      if (communicator == nullptr) continue;
      if (nccl().async_error(communicator, &result) != kSuccess || (result != kSuccess && result != kInProgress))
        return fmt::format("NCCL reports \"{}\" ({})", nccl().error_text(result), nccl().last_error(communicator));
    }
    if (latest_ == nullptr || cudaEventQuery(event_) != cudaErrorNotReady) return "";
    const double waited = std::chrono::duration<double>(Clock::now() - since_).count();
    return waited <= timeout_ ? "" : fmt::format("an {} between GPUs is not done after {:.0f} s (CAIRN_DIST_TIMEOUT)", latest_, waited);
  }

  void finish() override {
    const c10::cuda::CUDAGuard guard(device_);
    C10_CUDA_CHECK(cudaDeviceSynchronize());
  }

  void abort() override {
    if (aside_ != nullptr) nccl().abort(aside_);
    nccl().abort(communicator_);
    aside_ = communicator_ = nullptr;
  }

 private:
  void check(Result result, const char* what) const {
    if (result == kSuccess) return;
    throw UserError("{} between GPUs failed in process {} of {}: {} ({}). NCCL_DEBUG=INFO says more", what, rank_, size_,
                    nccl().error_text(result), nccl().last_error(communicator_));
  }

  // The number that the processes of a communicator know each other by: process 0 draws it.
  UniqueId agree_on_id() {
    at::Tensor shared = at::zeros({static_cast<int64_t>(sizeof(UniqueId))}, at::kByte);
    if (rank_ == 0) check(nccl().get_unique_id(reinterpret_cast<UniqueId*>(shared.data_ptr())), "meeting");
    host_.broadcast(shared, 0);
    return *reinterpret_cast<UniqueId*>(shared.data_ptr());
  }

  // A communicator of its own: its sums and the others' collectives need no common order, and it may be kept small.
  void open_aside() {
    int least = 0, greatest = 0;
    C10_CUDA_CHECK(cudaDeviceGetStreamPriorityRange(&least, &greatest));
    C10_CUDA_CHECK(cudaStreamCreateWithPriority(&aside_stream_, cudaStreamNonBlocking, greatest));
    C10_CUDA_CHECK(cudaEventCreateWithFlags(&ready_, cudaEventDisableTiming));
    C10_CUDA_CHECK(cudaEventCreateWithFlags(&done_, cudaEventDisableTiming));
    const UniqueId id = agree_on_id();
    const int size = static_cast<int>(size_), rank = static_cast<int>(rank_);
    Communicator* made = nullptr;
    Config config;
    config.most_blocks = kBlocksAside;
    Result result = nccl().init_rank_config == nullptr ? kInvalidArgument : nccl().init_rank_config(&made, size, id, rank, &config);
    if (result == kInvalidArgument) result = nccl().init_rank(&made, size, id, rank);  // a library that knows no such wish
    check(result, "meeting");
    const std::lock_guard lock(mutex_);
    aside_ = made;
  }

  template <typename Start>
  void run(const char* what, const at::Tensor& tensor, Start start) {
    const c10::cuda::CUDAGuard guard(device_);
    run_on(c10::cuda::getCurrentCUDAStream().stream(), what, tensor, start);
  }

  template <typename Start>
  void run_on(cudaStream_t stream, const char* what, const at::Tensor& tensor, Start start) {
    CAIRN_CHECK(tensor.device() == device_ && tensor.is_contiguous(), "{} of a tensor on {}, this process works on {}", what,
                tensor.device().str(), device_.str());
    check(start(stream), what);
    cudaStreamCaptureStatus capturing = cudaStreamCaptureStatusNone;
    C10_CUDA_CHECK(cudaStreamIsCapturing(stream, &capturing));
    if (capturing == cudaStreamCaptureStatusNone) mark(what, stream);  // recorded work is not under way
  }

  // From now on the watch waits for what is queued on `stream`.
  void mark(const char* what, cudaStream_t stream) {
    const std::lock_guard lock(mutex_);
    C10_CUDA_CHECK(cudaEventRecord(event_, stream));
    latest_ = what;
    since_ = Clock::now();
  }

  const int64_t rank_, size_;
  const double timeout_;
  const at::Device device_;
  World& host_;
  Communicator* communicator_ = nullptr;
  cudaStream_t aside_stream_ = nullptr;
  cudaEvent_t ready_ = nullptr, done_ = nullptr;  // between the stream of the work and the one beside it
  bool started_ = false;                          // sums beside it that nobody has joined
  std::mutex mutex_;                              // of what follows: the watch looks at it
  Communicator* aside_ = nullptr;
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
