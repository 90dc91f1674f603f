// Tensors of more than 2^31 numbers: rows at the beginning, about number 2^31 and at the end against the references on those rows alone. An
// offset of 32 bits would be seen at once.
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/one_hot.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/softmax.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "cairn/ops/cuda/kernels.h"
#include "cairn/ops/hsa/hsa.h"
#include "cairn/ops/norm/norm.h"
#include "cairn/ops/rotary/rotary.h"
#include "cairn/ops/select/select.h"
#include "cairn/ops/swiglu/swiglu.h"

namespace cairn {
namespace {

constexpr int64_t kBorder = int64_t{1} << 31, kGiB = int64_t{1} << 30;

at::TensorOptions on_gpu(at::ScalarType type) { return at::TensorOptions(at::kCUDA).dtype(type); }

class CudaLarge : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!at::globalContext().hasCUDA()) GTEST_SKIP() << "no GPU here";
    if (cuda_kernels() == nullptr || cuda_kernels()->hsa_forward == nullptr) GTEST_SKIP() << "built without CUDA";
  }
  void TearDown() override {
    if (at::globalContext().hasCUDA()) at::getDeviceAllocator(at::kCUDA)->emptyCache();  // other tests want memory, too
  }
  static int64_t free_bytes() {
    at::getDeviceAllocator(at::kCUDA)->emptyCache();
    return static_cast<int64_t>(at::getDeviceAllocator(at::kCUDA)->getMemoryInfo(0).first);
  }
};

#define CAIRN_NEED_MEMORY(gib) \
  if (free_bytes() < (gib)*kGiB) GTEST_SKIP() << "needs " << (gib) << " GiB of GPU memory; " << free_bytes() / kGiB << " GiB are free"

// Rows [first, first + count) of dimension 1, at three places; `width` numbers a row.
std::vector<std::pair<int64_t, int64_t>> places(int64_t rows, int64_t width) {
  constexpr int64_t kRows = 96;
  return {{0, kRows}, {kBorder / width - kRows / 2, kRows}, {rows - kRows, kRows}};
}
at::Tensor rows_at(const at::Tensor& x, const std::vector<std::pair<int64_t, int64_t>>& where) {
  std::vector<at::Tensor> parts;
  for (const auto& [first, count] : where) parts.push_back(x.narrow(1, first, count));
  return at::cat(parts, 1);
}

double largest(const at::Tensor& x) { return x.abs().max().item<double>(); }
void expect_near(const at::Tensor& got, const at::Tensor& want, double share, const std::string& what) {
  const double error = largest(got.to(at::kDouble) - want.to(at::kDouble)), size = largest(want);
  EXPECT_LE(error, share * size) << what << ": error " << error << ", largest " << size;
}

TEST_F(CudaLarge, MemoryAttention) {
  CAIRN_NEED_MEMORY(26);
  const int64_t L = (int64_t{1} << 21) + 4099, H = 16, D = 64, S = 64, N = 8, C = 302, own = 2;  // the last two chunks: of the last rows
  ASSERT_GT(L * H * D, kBorder);
  const at::Tensor q = at::randn({1, L, H, D}, on_gpu(at::kBFloat16)), g = at::randn({1, L, H, D}, on_gpu(at::kBFloat16)),
                   k = at::randn({1, C * S, 1, D}, on_gpu(at::kBFloat16)), v = at::randn({1, C * S, 1, D}, on_gpu(at::kBFloat16)),
                   w = at::rand({1, L, 1, N}, on_gpu(at::kFloat));
  at::Tensor index = (at::randint(0, C - own, {1, L, 1, 1}, on_gpu(at::kLong)) + at::arange(N, on_gpu(at::kLong)) * 37).remainder(C - own);
  const auto where = places(L, H * D);
  const auto [last, count] = where.back();
  index.narrow(1, last, count).select(3, 2).copy_((at::arange(count, on_gpu(at::kLong)).remainder(own) + (C - own)).view({1, count, 1}));
  const CudaKernels& kernels = *cuda_kernels();
  if (!kernels.hsa_supports(q, k, index, w, S, false, false))
    GTEST_SKIP() << "the kernels of memory attention need compute capability 9.0 and sm_90a code";

  const auto leaf = [&](const at::Tensor& x) { return x.to(at::kDouble).requires_grad_(true); };
  const at::Tensor q_rows = leaf(rows_at(q, where)), w_rows = leaf(rows_at(w, where)), k_all = leaf(k), v_all = leaf(v);
  const at::Tensor want = hsa_reference(q_rows, k_all, v_all, rows_at(index, where), w_rows, S, false, false).o;
  for (const char* order : {"union", "chunk", "row"}) {
    setenv("CAIRN_HSA_ORDER", order, 1);
    const at::Tensor o = kernels.hsa_forward(q, k, v, index, w, S, false, false).o;
    unsetenv("CAIRN_HSA_ORDER");
    expect_near(rows_at(o, where), want.detach(), 0.01, fmt::format("o in {} order", order));
  }
  const auto grads = torch::autograd::grad({want}, {q_rows, k_all, v_all, w_rows}, {rows_at(g, where).to(at::kDouble)});
  const HsaGradients got = kernels.hsa_backward(g, {}, q, k, v, index, w, S, false);
  expect_near(rows_at(got.q, where), grads[0], 0.02, "dq");
  expect_near(rows_at(got.weight, where), grads[3], 0.02, "dweight");
  const auto of_last_rows = [&](const at::Tensor& x) { return x.narrow(1, (C - own) * S, own * S); };
  expect_near(of_last_rows(got.k), of_last_rows(grads[1]), 0.02, "dk");
  expect_near(of_last_rows(got.v), of_last_rows(grads[2]), 0.02, "dv");
}

TEST_F(CudaLarge, NormAndRotation) {
  CAIRN_NEED_MEMORY(22);
  const int64_t L = (int64_t{1} << 21) + 4099, H = 16, D = 64;
  const at::Tensor x = at::randn({1, L, H, D}, on_gpu(at::kBFloat16)).requires_grad_(true), g = at::randn({1, L, H, D}, x.options()),
                   gain = at::rand({D}, on_gpu(at::kFloat)) + 0.5;
  const at::Tensor y = norm_rotate(x, gain, rotary_table(0, L, D, 1e4, x.device(), at::kFloat));
  const at::Tensor dx = torch::autograd::grad({y}, {x}, {g})[0];
  for (const auto& [first, count] : places(L, H * D)) {
    const at::Tensor some = x.detach().narrow(1, first, count).to(at::kDouble).requires_grad_(true);
    const at::Tensor want = norm_rotate_reference(some, gain.to(at::kDouble), rotary_table(first, count, D, 1e4, x.device(), at::kDouble));
    expect_near(y.detach().narrow(1, first, count), want.detach(), 0.01, fmt::format("y at {}", first));
    const at::Tensor d = torch::autograd::grad({want}, {some}, {g.narrow(1, first, count).to(at::kDouble)})[0];
    expect_near(dx.narrow(1, first, count), d, 0.01, fmt::format("dx at {}", first));
  }
}

TEST_F(CudaLarge, ResidualSumAndNorm) {
  CAIRN_NEED_MEMORY(46);
  const int64_t rows = (int64_t{1} << 22) + 1003, width = 512;
  const at::Tensor x = at::randn({1, rows, width}, on_gpu(at::kFloat)), delta = at::randn({1, rows, width}, on_gpu(at::kBFloat16)),
                   w = at::rand({width}, on_gpu(at::kFloat)) + 0.5;
  ASSERT_TRUE(cuda_kernels()->add_norm_supports(x, delta, w, at::kBFloat16));
  const auto [sum, y] = cuda_kernels()->add_norm_forward(x, delta, w);
  const auto [dx, ddelta, dw] = cuda_kernels()->add_norm_backward({}, delta, sum, w);
  const auto where = places(rows, width);
  const at::Tensor together = (rows_at(x, where).to(at::kDouble) + rows_at(delta, where).to(at::kDouble)).requires_grad_(true);
  expect_near(rows_at(sum, where), together.detach(), 1e-6, "sum");
  const at::Tensor want = rms_norm_reference(together, w.to(at::kDouble));
  expect_near(rows_at(y, where), want.detach(), 0.01, "y");
  const at::Tensor d = torch::autograd::grad({want}, {together}, {rows_at(delta, where).to(at::kDouble)})[0];
  expect_near(rows_at(dx, where), d, 1e-4, "dx");
  expect_near(rows_at(ddelta, where), d, 0.01, "ddelta");
}

TEST_F(CudaLarge, Swiglu) {
  CAIRN_NEED_MEMORY(20);
  const int64_t width = 1344, rows = kBorder / (2 * width) + 5003;
  const at::Tensor x = at::randn({1, rows, 2 * width}, on_gpu(at::kBFloat16)).requires_grad_(true),
                   g = at::randn({1, rows, width}, on_gpu(at::kBFloat16));
  const at::Tensor y = swiglu_joint(x);
  const at::Tensor dx = torch::autograd::grad({y}, {x}, {g})[0];
  const auto where = places(rows, 2 * width);
  const at::Tensor some = rows_at(x.detach(), where).to(at::kDouble).requires_grad_(true);
  const at::Tensor want = swiglu_reference(some.narrow(2, 0, width), some.narrow(2, width, width));
  expect_near(rows_at(y.detach(), where), want.detach(), 0.01, "y");
  expect_near(rows_at(dx, where), torch::autograd::grad({want}, {some}, {rows_at(g, where).to(at::kDouble)})[0], 0.01, "dx");
}

TEST_F(CudaLarge, CrossEntropyOfRows) {
  CAIRN_NEED_MEMORY(16);
  const int64_t vocab = 16384, rows = kBorder / vocab + 517;
  const at::Tensor logits = at::randn({rows, vocab}, on_gpu(at::kFloat)), target = at::randint(0, vocab, {rows}, on_gpu(at::kLong)),
                   lse = at::empty({rows}, on_gpu(at::kFloat)), loss = at::empty({rows}, on_gpu(at::kFloat)),
                   correct = at::empty({rows}, on_gpu(at::kBool)), scale = at::rand({rows}, on_gpu(at::kFloat)) + 0.5;
  ASSERT_TRUE(cuda_kernels()->cross_entropy_supports(logits));
  cuda_kernels()->cross_entropy_statistics(logits, target, lse, loss, correct);
  const at::Tensor grad = cuda_kernels()->cross_entropy_gradient(logits, target, lse, scale, at::kBFloat16);
  for (const auto& [first, count] : places(rows, vocab)) {
    const at::Tensor some = logits.narrow(0, first, count).to(at::kDouble), its = target.narrow(0, first, count),
                     want = at::logsumexp(some, 1), chosen = some.gather(1, its.unsqueeze(1)).squeeze(1);
    expect_near(lse.narrow(0, first, count), want, 1e-5, fmt::format("lse at {}", first));
    expect_near(loss.narrow(0, first, count), want - chosen, 1e-5, fmt::format("loss at {}", first));
    EXPECT_TRUE(correct.narrow(0, first, count).equal(some.argmax(1).eq(its))) << first;
    const at::Tensor d = (at::softmax(some, 1) - at::one_hot(its, vocab)) * scale.narrow(0, first, count).to(at::kDouble).unsqueeze(1);
    expect_near(grad.narrow(0, first, count), d, 0.01, fmt::format("gradient at {}", first));
  }
}

// The choice from given scores, noise included, and the selection by landmarks.
TEST_F(CudaLarge, Selection) {
  CAIRN_NEED_MEMORY(20);
  {
    const int64_t C = 1024, L = kBorder / C + 2011;
    const at::Tensor score = at::randn({1, L, 1, C}, on_gpu(at::kFloat));
    ASSERT_TRUE(cuda_kernels()->select_given_supports(score, 8));
    for (const uint64_t noise : {uint64_t{0}, uint64_t{77}}) {
      Visibility v;
      v.chunk = 64;
      const Selection got = select_from_scores(score, 8, v, noise);
      for (const auto& [first, count] : places(L, C)) {
        Visibility here = v;
        here.first_position = first;
        const Selection want = select_from_scores(score.narrow(1, first, count).cpu(), 8, here, noise);
        EXPECT_TRUE(got.index.narrow(1, first, count).cpu().equal(want.index)) << first << " noise " << noise;
        EXPECT_TRUE(got.score.narrow(1, first, count).cpu().equal(want.score)) << first << " noise " << noise;
      }
    }
  }
  // Whole numbers, so that sums are exact and the choice is that of the plain path.
  const int64_t width = 512, L = kBorder / width + 2011, C = 130;
  const at::Tensor rq = at::randint(-2, 3, {1, L, 1, width}, on_gpu(at::kChar)).to(at::kBFloat16),
                   landmarks = at::randint(-2, 3, {1, C, 1, width}, on_gpu(at::kChar)).to(at::kBFloat16);
  Visibility v;
  v.chunk = 64;
  ASSERT_TRUE(cuda_kernels()->select_supports(rq, {landmarks}, 8, v));
  const Selection got = select_chunks(rq, landmarks, 8, v);
  for (const auto& [first, count] : places(L, width)) {
    Visibility here = v;
    here.first_position = first;
    const Selection want = select_from_scores(landmark_scores(rq.narrow(1, first, count), landmarks), 8, here);
    EXPECT_TRUE(got.index.narrow(1, first, count).equal(want.index)) << first;
    EXPECT_TRUE(got.score.narrow(1, first, count).equal(want.score)) << first;
  }
}

}  // namespace
}  // namespace cairn
