// Memory that is not there: wherever an operator runs out of it, it says so by an exception, and the next call is right.
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/util/Exception.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cairn/ops/cross_entropy/cross_entropy.h"
#include "cairn/ops/cuda/kernels.h"
#include "cairn/ops/hsa/direct.h"
#include "cairn/ops/norm/norm.h"
#include "cairn/ops/select/select.h"
#include "cairn/ops/swiglu/swiglu.h"

namespace cairn {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

at::TensorOptions on_gpu(at::ScalarType type) { return at::TensorOptions(at::kCUDA).dtype(type); }

// Takes all memory of the GPU but about `spare` bytes as long as it lives, in pieces of several sizes: what is left cannot be had in one,
// and small ones also fill what the allocator keeps.
class Hoard {
 public:
  explicit Hoard(int64_t spare) {
    at::getDeviceAllocator(at::kCUDA)->emptyCache();
    for (const int64_t piece : {65536, 8192, 1024, 256, 64, 16}) {
      while (free_bytes() - spare >= piece * kMiB && take(piece * kMiB)) {
      }
    }
  }
  ~Hoard() {
    held_.clear();
    at::getDeviceAllocator(at::kCUDA)->emptyCache();
  }
  Hoard(const Hoard&) = delete;
  Hoard& operator=(const Hoard&) = delete;

 private:
  static int64_t free_bytes() { return static_cast<int64_t>(at::getDeviceAllocator(at::kCUDA)->getMemoryInfo(0).first); }
  bool take(int64_t bytes) {
    try {
      held_.push_back(at::empty({bytes}, on_gpu(at::kByte)));
    } catch (const c10::OutOfMemoryError&) {
      return false;
    }
    return true;
  }
  std::vector<at::Tensor> held_;
};

using Run = std::function<std::vector<at::Tensor>()>;

// With more and more memory until it is enough; `fails`: so often at least it must not have been.
void expect_clean(const std::string& what, int fails, const Run& run) {
  const auto end_of = [](const at::Tensor& x) {  // without memory on the GPU
    const int64_t n = std::min<int64_t>(x.numel(), 1 << 20);
    return x.view({-1}).narrow(0, x.numel() - n, n).cpu().to(at::kDouble);
  };
  std::vector<at::Tensor> want;
  for (const at::Tensor& x : run()) want.push_back(end_of(x));
  const auto expect_right = [&](const std::vector<at::Tensor>& got, const char* when) {
    for (size_t i = 0; i < got.size(); ++i) {  // sums need not have an order
      const at::Tensor a = end_of(got[i]), b = want[i];
      EXPECT_LE((a - b).abs().max().item<double>(), 0.01 * b.abs().max().item<double>()) << what << ", result " << i << " " << when;
    }
  };
  int failed = 0;
  for (const int64_t spare : {4, 32, 96, 256, 768, 2048, 4096}) {
    bool enough = false;
    {
      const Hoard hoard(spare * kMiB);
      try {
        expect_right(run(), "beside little memory");
        enough = true;
      } catch (const c10::OutOfMemoryError& error) {
        ++failed;
        EXPECT_NE(std::string(error.what_without_backtrace()).find("out of memory"), std::string::npos) << what;
      }
    }
    expect_right(run(), "afterwards");
    if (enough) break;
  }
  EXPECT_GE(failed, fails) << what;
  std::printf("%s: too little memory %d times\n", what.c_str(), failed);
}

class CudaMemory : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!at::globalContext().hasCUDA()) GTEST_SKIP() << "no GPU here";
    if (cuda_kernels() == nullptr || cuda_kernels()->hsa_forward == nullptr) GTEST_SKIP() << "built without CUDA";
    most_ = std::make_unique<Hoard>(5120 * kMiB);  // once: giving back so much takes half a second
  }
  std::unique_ptr<Hoard> most_;
};

TEST_F(CudaMemory, AttentionThatDoesNotFit) {
  const int64_t L = 24000, H = 16, S = 64, N = 8, C = 90;
  for (const auto type : {at::kBFloat16, at::kFloat}) {
    const int64_t rows = type == at::kFloat ? L / 8 : L;  // the plain path takes more
    const at::Tensor q = at::randn({1, rows, H, 64}, on_gpu(type)), k = at::randn({1, C * S, 1, 64}, on_gpu(type)),
                     v = at::randn({1, C * S, 1, 64}, on_gpu(type)), w = at::rand({1, rows, 1, N}, on_gpu(at::kFloat));
    const at::Tensor index = (at::randint(0, C, {1, rows, 1, 1}, on_gpu(at::kLong)) + at::arange(N, on_gpu(at::kLong)) * 11).remainder(C);
    const std::string name = c10::toString(type);
    expect_clean("hsa " + name, 1, [&] { return std::vector<at::Tensor>{hsa_forward(q, k, v, index, w, S, false, false).o}; });
    expect_clean("hsa backward " + name, 2, [&] {
      const HsaGradients d = hsa_backward(q, {}, q, k, v, index, w, S, false);
      return std::vector<at::Tensor>{d.q, d.k, d.v, d.weight};
    });
  }
}

TEST_F(CudaMemory, OtherOperatorsThatDoNotFit) {
  const at::Tensor rq = at::randn({1, 60000, 1, 512}, on_gpu(at::kBFloat16)),
                   landmarks = at::randn({1, 4000, 1, 512}, on_gpu(at::kBFloat16));
  Visibility v;
  v.first_position = 64 * 4000;
  expect_clean("select_chunks", 1, [&] {
    const Selection found = select_chunks(rq, landmarks, 100, v);
    return std::vector<at::Tensor>{found.index, found.score};
  });
  const at::Tensor x = at::randn({30000, 1024}, on_gpu(at::kBFloat16)), gain = at::rand({1024}, on_gpu(at::kFloat));
  expect_clean("rms_norm", 1, [&] { return std::vector<at::Tensor>{rms_norm(x, gain)}; });
  expect_clean("swiglu_joint", 1, [&] { return std::vector<at::Tensor>{swiglu_joint(x)}; });
  const at::Tensor table = at::randn({8000, 1024}, on_gpu(at::kBFloat16)).requires_grad_(true),
                   target = at::randint(0, 8000, {30000}, on_gpu(at::kLong));
  expect_clean("linear_cross_entropy", 1, [&] {
    const at::Tensor loss = linear_cross_entropy(x, table, target).loss;
    return std::vector<at::Tensor>{loss.detach(), torch::autograd::grad({loss.sum()}, {table})[0]};
  });
}

}  // namespace
}  // namespace cairn
