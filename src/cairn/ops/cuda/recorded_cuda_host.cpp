// Recording through ATen's CUDAGraph: its allocations come from a pool of their own, which the recording keeps.
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAFunctions.h>
#include <cuda_runtime_api.h>

#include <exception>

#include "cairn/ops/cuda/kernels.h"
#include "cairn/ops/cuda/launch.h"

namespace cairn {
namespace {

class Graph final : public RecordedWork {
 public:
  explicit Graph(const std::function<void()>& work) {
    const c10::cuda::CUDAStream before = c10::cuda::getCurrentCUDAStream();
    before.synchronize();  // what the recording reads is there, and nothing else is queued while it is made
    const c10::cuda::CUDAStream own = c10::cuda::getStreamFromPool(/*isHighPriority=*/false, before.device_index());
    const c10::cuda::CUDAStreamGuard guard(own);
    graph_.capture_begin({0, 0}, cudaStreamCaptureModeThreadLocal);
    try {
      work();
    } catch (...) {
      try {
        graph_.capture_end();
      } catch (const std::exception&) {  // the first error says more
      }
      cudaGetLastError();
      throw;
    }
    graph_.capture_end();
  }
  void replay() override { graph_.replay(); }

 private:
  at::cuda::CUDAGraph graph_;
};

[[maybe_unused]] const bool registered = register_cuda_kernels([](CudaKernels* table) {
  table->record = [](const std::function<void()>& work) -> std::unique_ptr<RecordedWork> { return std::make_unique<Graph>(work); };
});

}  // namespace
}  // namespace cairn
