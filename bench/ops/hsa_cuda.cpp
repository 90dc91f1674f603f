// Times memory attention on a GPU and prints CSV. One sequence, 16 query heads, shared selection, from (q, k, v, index, weight) to outputs,
// workspace and inversion of the selection included; medians.
//
//   bench_hsa_cuda [--machine NAME] [--commit ID]            the shapes of docs/kernels-cuda.md, uniform distinct past chunks
//   bench_hsa_cuda --index FILE [--machine ..]               the selections of a file, width 64
//   bench_hsa_cuda --write-index FILE --model DIR --text FILE [--tokens N]    what a trained model selects, for --index and hsa_triton.py
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "cairn/core/error.h"
#include "cairn/ops/cuda/kernels.h"
#include "cairn/ops/cuda/launch.h"
#include "ops/hsa_selection.h"

namespace cairn {
namespace {

constexpr int64_t kHeads = 16, kChunk = 64;

struct Options {
  std::string machine = "-", commit = "-", index, write_index, model, text;
  int64_t tokens = 65536;
};

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

double peak_of_products() {  // TFLOP/s of a large bf16 product
  const at::Tensor a = at::randn({8192, 8192}, on_gpu(at::kBFloat16)), b = at::randn({8192, 8192}, on_gpu(at::kBFloat16));
  return 2.0 * 8192 * 8192 * 8192 / median_ms([&] { at::mm(a, b); }, 20) * 1e-9;
}

int64_t peak_bytes() { return c10::cuda::CUDACachingAllocator::getDeviceStats(0).allocated_bytes[0].peak; }

struct Case {
  int64_t G = 1, D = 64;
  bool deterministic = false, cold = true;
};

class Bench {
 public:
  explicit Bench(const Options& o) : prefix_(o.machine + "," + o.commit), peak_(peak_of_products()) {
    fmt::print("# bf16 product of 8192 x 8192 x 8192: {:.0f} TFLOP/s\n", peak_);
    fmt::print(
        "machine,commit,selection,L,N,heads a group,D,deterministic,L2,forward ms,forward TFLOP/s,forward % of product,backward ms,"
        "backward TFLOP/s,backward % of product,backward MB beyond inputs and gradients\n");
  }

  // index [1,L,1,N] on the CPU.
  void run(const std::string& selection, const at::Tensor& host_index, const std::vector<Case>& cases) const {
    const at::Tensor index = host_index.to(at::kCUDA);
    for (const Case& c : cases) time(selection, index, c);
  }

 private:
  void time(const std::string& selection, const at::Tensor& index, const Case& c) const {
    const int64_t L = index.size(1), N = index.size(3);
    const at::Tensor q = at::randn({1, L, kHeads, c.D}, on_gpu(at::kBFloat16)), g = at::randn({1, L, kHeads, c.D}, on_gpu(at::kBFloat16));
    const at::Tensor k = at::randn({1, L, c.G, c.D}, on_gpu(at::kBFloat16)), v = at::randn({1, L, c.G, c.D}, on_gpu(at::kBFloat16));
    const at::Tensor weight = at::rand({1, L, 1, N}, on_gpu(at::kFloat));
    const CudaKernels& kernels = *cuda_kernels();
    at::globalContext().setDeterministicAlgorithms(c.deterministic, false);
    const int repeats = L > 100000 ? 5 : 15;
    const double forward = median_ms([&] { kernels.hsa_forward(q, k, v, index, weight, kChunk, false, false); }, repeats, c.cold);
    c10::cuda::CUDACachingAllocator::emptyCache();
    c10::cuda::CUDACachingAllocator::resetPeakStats(0);
    const int64_t before = peak_bytes();
    kernels.hsa_backward(g, {}, q, k, v, index, weight, kChunk, false);
    const int64_t gradients = (q.numel() + k.numel() + v.numel()) * 2 + weight.numel() * 4, beyond = peak_bytes() - before - gradients;
    const double backward = median_ms([&] { kernels.hsa_backward(g, {}, q, k, v, index, weight, kChunk, false); }, repeats, c.cold);
    at::globalContext().setDeterministicAlgorithms(false, false);
    const double flop = 4.0 * index.ge(0).sum().item<double>() * kHeads * kChunk * static_cast<double>(c.D);
    const double f = flop / forward * 1e-9, b = 2.5 * flop / backward * 1e-9;
    fmt::print("{},{},{},{},{},{},{},{},{:.3f},{:.0f},{:.1f},{:.3f},{:.0f},{:.1f},{:.0f}\n", prefix_, selection, L, N, kHeads / c.G, c.D,
               c.deterministic ? "yes" : "no", c.cold ? "cold" : "warm", forward, f, 100 * f / peak_, backward, b, 100 * b / peak_,
               static_cast<double>(std::max<int64_t>(beyond, 0)) * 1e-6);
    std::fflush(stdout);
  }

  std::string prefix_;
  double peak_;
};

void random_selections(const Bench& bench) {
  for (const int64_t L : {1024, 2048, 4096, 8192, 16384, 65536, 262144, 1048576}) {
    std::vector<Case> cases = {{}};
    if (L == 4096 || L == 65536) {
      for (const int64_t G : {2, 4, 8, 16}) cases.push_back({G, 64});
      for (const int64_t D : {32, 96, 128}) cases.push_back({1, D});
      cases.insert(cases.end(), {{1, 64, true}, {1, 64, false, false}});
    }
    bench.run("random", past_chunks(L, 8, kChunk), cases);
  }
  for (const int64_t L : {4096, 16384, 65536}) {
    std::vector<Case> cases = {{}};
    if (L != 16384) cases.insert(cases.end(), {{1, 128}, {1, 64, true}, {1, 64, false, false}});
    bench.run("random", past_chunks(L, 32, kChunk), cases);
  }
}

int run(int argc, char** argv) {
  Options o;
  CLI::App app("Times memory attention on a GPU; CSV.");
  app.add_option("--machine", o.machine, "what the first column says");
  app.add_option("--commit", o.commit, "what the second column says");
  app.add_option("--index", o.index, "time the selections of this file");
  auto* write = app.add_option("--write-index", o.write_index, "write what a model selects into this file");
  auto* model = app.add_option("--model", o.model, "its folder")->needs(write);
  auto* text = app.add_option("--text", o.text, "what it reads")->needs(write);
  app.add_option("--tokens", o.tokens, "how many tokens of it")->check(CLI::PositiveNumber)->capture_default_str();
  write->needs(model)->needs(text);
  CLI11_PARSE(app, argc, argv);
  if (!at::globalContext().hasCUDA() || cuda_kernels() == nullptr) throw UserError("bench_hsa_cuda: no GPU here");
  if (!o.write_index.empty()) {
    write_selections(o.write_index, selections_of_model(o.model, o.text, o.tokens));
    return 0;
  }
  const Bench bench(o);
  if (o.index.empty()) {
    random_selections(bench);
  } else {
    for (const auto& [name, index] : read_selections(o.index)) bench.run(name, index, {{}});
  }
  return 0;
}

}  // namespace
}  // namespace cairn

int main(int argc, char** argv) {
  try {
    return cairn::run(argc, argv);
  } catch (const cairn::UserError& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return 2;
  }
}
