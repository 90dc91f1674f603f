// Times memory attention on a GPU and prints CSV: bench_hsa_cuda [machine] [commit]. One sequence, 16 query heads, shared selection of
// uniform distinct past chunks, from (q, k, v, index, weight) to outputs, workspace and inversion of the selection included; medians.
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "cairn/core/random.h"
#include "cairn/ops/cuda/kernels.h"
#include "cairn/ops/cuda/launch.h"

namespace cairn {
namespace {

at::TensorOptions on_gpu(at::ScalarType type) { return at::TensorOptions(at::kCUDA).dtype(type); }

// Milliseconds; cold: 256 MB are written before each call, so that nothing is left in the L2 cache.
double median_ms(const std::function<void()>& work, int repeats, bool cold = false) {
  const at::Tensor sweep = at::empty({cold ? int64_t{256} << 20 : 1}, on_gpu(at::kByte));
  std::vector<float> times(static_cast<size_t>(repeats));
  cudaEvent_t begin, end;
  C10_CUDA_CHECK(cudaEventCreate(&begin));
  C10_CUDA_CHECK(cudaEventCreate(&end));
  for (int i = 0; i < 3; ++i) work();
  for (float& time : times) {
    sweep.fill_(1);
    C10_CUDA_CHECK(cudaEventRecord(begin, current_stream()));
    work();
    C10_CUDA_CHECK(cudaEventRecord(end, current_stream()));
    C10_CUDA_CHECK(cudaEventSynchronize(end));
    C10_CUDA_CHECK(cudaEventElapsedTime(&time, begin, end));
  }
  C10_CUDA_CHECK(cudaEventDestroy(begin));
  C10_CUDA_CHECK(cudaEventDestroy(end));
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

// min(N, visible) distinct past chunks for every token; the same numbers for the same sizes.
at::Tensor past_chunks(int64_t L, int64_t Gi, int64_t N, int64_t S) {
  Random random(5, 1);
  const at::Tensor index = at::full({1, L, Gi, N}, -1, at::kLong);
  int64_t* p = index.mutable_data_ptr<int64_t>();
  for (int64_t t = 0; t < L; ++t) {
    for (int64_t g = 0; g < Gi; ++g, p += N) {
      const std::vector<int64_t> picked = random.choose(t / S, std::min(N, t / S));
      std::copy(picked.begin(), picked.end(), p);
    }
  }
  return index.to(at::kCUDA);
}

double peak_of_products() {  // TFLOP/s of a large bf16 product
  const at::Tensor a = at::randn({8192, 8192}, on_gpu(at::kBFloat16)), b = at::randn({8192, 8192}, on_gpu(at::kBFloat16));
  return 2.0 * 8192 * 8192 * 8192 / median_ms([&] { at::mm(a, b); }, 20) * 1e-9;
}

int64_t peak_bytes() { return c10::cuda::CUDACachingAllocator::getDeviceStats(0).allocated_bytes[0].peak; }

void bench(const std::string& prefix, double peak, int64_t L, int64_t N, int64_t G, int64_t D, bool deterministic, bool cold) {
  constexpr int64_t kHeads = 16, kChunk = 64;
  const at::Tensor q = at::randn({1, L, kHeads, D}, on_gpu(at::kBFloat16)), g = at::randn({1, L, kHeads, D}, on_gpu(at::kBFloat16));
  const at::Tensor k = at::randn({1, L, G, D}, on_gpu(at::kBFloat16)), v = at::randn({1, L, G, D}, on_gpu(at::kBFloat16));
  const at::Tensor index = past_chunks(L, 1, N, kChunk), weight = at::rand({1, L, 1, N}, on_gpu(at::kFloat));
  const CudaKernels& kernels = *cuda_kernels();
  at::globalContext().setDeterministicAlgorithms(deterministic, false);
  const int repeats = L > 100000 ? 5 : 15;
  const double forward = median_ms([&] { kernels.hsa_forward(q, k, v, index, weight, kChunk, false, false); }, repeats, cold);
  c10::cuda::CUDACachingAllocator::emptyCache();
  c10::cuda::CUDACachingAllocator::resetPeakStats(0);
  const int64_t before = peak_bytes();
  const double backward = median_ms([&] { kernels.hsa_backward(g, {}, q, k, v, index, weight, kChunk, false); }, repeats, cold);
  const int64_t gradients = (q.numel() + k.numel() + v.numel()) * 2 + weight.numel() * 4;
  at::globalContext().setDeterministicAlgorithms(false, false);
  const double flop = 4.0 * index.ge(0).sum().item<double>() * kHeads * kChunk * static_cast<double>(D);
  const double f = flop / forward * 1e-9, b = 2.5 * flop / backward * 1e-9;
  fmt::print("{},{},{},{},{},{},{},{:.3f},{:.0f},{:.1f},{:.3f},{:.0f},{:.1f},{:.0f}\n", prefix, L, N, kHeads / G, D,
             deterministic ? "yes" : "no", cold ? "cold" : "warm", forward, f, 100 * f / peak, backward, b, 100 * b / peak,
             static_cast<double>(std::max<int64_t>(peak_bytes() - before - gradients, 0)) * 1e-6);
  std::fflush(stdout);
}

int run(int argc, char** argv) {
  if (!at::globalContext().hasCUDA() || cuda_kernels() == nullptr) {
    fmt::print(stderr, "bench_hsa_cuda: no GPU here\n");
    return 2;
  }
  const std::string prefix = fmt::format("{},{}", argc > 1 ? argv[1] : "-", argc > 2 ? argv[2] : "-");
  const double peak = peak_of_products();
  fmt::print("# bf16 product of 8192 x 8192 x 8192: {:.0f} TFLOP/s\n", peak);
  fmt::print(
      "machine,commit,L,N,heads a group,D,deterministic,L2,forward ms,forward TFLOP/s,forward % of product,backward ms,"
      "backward TFLOP/s,backward % of product,backward MB beyond inputs and gradients\n");
  for (const int64_t L : {4096, 65536}) {
    for (const int64_t N : {8, 32}) {
      for (const bool cold : {false, true}) bench(prefix, peak, L, N, 1, 64, false, cold);
      bench(prefix, peak, L, N, 1, 64, true, false);
      bench(prefix, peak, L, N, 1, 128, false, false);
    }
    for (const int64_t G : {2, 4, 8, 16}) bench(prefix, peak, L, 8, G, 64, false, false);
  }
  bench(prefix, peak, int64_t{1} << 20, 8, 1, 64, false, false);
  return 0;
}

}  // namespace
}  // namespace cairn

int main(int argc, char** argv) { return cairn::run(argc, argv); }
