// The kernels of a decoding step against the plain paths, random shapes. Errors by the manner of docs/architecture.md: at most twice those
// of the formula with every operation in bf16.
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "cairn/ops/cuda/kernels.h"
#include "cairn/ops/hsa/pages.h"
#include "cairn/ops/projection/projection.h"
#include "cairn/ops/select/select.h"
#include "cairn/ops/step/kernels.h"
#include "cairn/ops/step/step.h"
#include "cairn/ops/window/step.h"
#include "ops/compare.h"
#include "ops/pages_case.h"

namespace cairn {
namespace {

using testing::largest;
using testing::worst;

at::TensorOptions on_gpu(at::ScalarType type) { return at::TensorOptions(at::kCUDA).dtype(type); }
at::Tensor bf16(at::IntArrayRef sizes, double scale = 1) { return (at::randn(sizes, on_gpu(at::kFloat)) * scale).to(at::kBFloat16); }

class CudaStep : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!at::globalContext().hasCUDA()) GTEST_SKIP() << "no GPU here";
    if (cuda_kernels() == nullptr || step_kernels()->project == nullptr) GTEST_SKIP() << "built without CUDA";
    has_code_ = step_kernels()->rotary_supports(at::zeros({}, on_gpu(at::kLong)), 1);
  }
  // Whether this GPU runs Hopper's machine code. Where it runs what is made of the PTX, operators take the plain path, and that is checked
  // instead (which of the two it has to be: cuda_kernels_test.cpp).
  bool has_code_ = false;
  Random random_{77, 1};
  const at::NoGradGuard no_gradient_;
};

// got, the plain path in bf16, and the truth in fp64.
void expect_close(const at::Tensor& got, const at::Tensor& plain, const at::Tensor& want, const std::string& what) {
  EXPECT_EQ(got.scalar_type(), plain.scalar_type()) << what;
  EXPECT_LE(worst(got, want), 2 * worst(plain, want) + largest(want) / 512) << what;
}

TEST_F(CudaStep, ProductsOfFewRows) {
  for (int i = 0; i < 40; ++i) {
    const int64_t rows = 1 + random_.below(8), width = 8 * (1 + random_.below(i % 4 == 0 ? 500 : 130)),
                  outs = 2 * (1 + random_.below(1500));
    const std::string what = fmt::format("{} rows of {}, {} results", rows, width, outs);
    const at::Tensor x = at::randn({rows, 1, width}, on_gpu(at::kFloat)) * 3, gain = at::randn({width}, on_gpu(at::kFloat)) + 1;
    const at::Tensor w = bf16({outs, width}, 1 / std::sqrt(static_cast<double>(width))), bias = bf16({outs});
    const at::Tensor h = x.to(at::kBFloat16), residual = at::randn({rows, 1, outs}, on_gpu(at::kFloat));
    const auto wide = [](const at::Tensor& t) { return t.to(at::kDouble); };
    ASSERT_EQ(step_kernels()->projection_supports(x, gain, w, bias, at::kBFloat16), has_code_) << what;
    ASSERT_EQ(step_kernels()->projection_supports(h, {}, w, residual, at::kFloat), has_code_) << what;
    expect_close(norm_linear(x, gain, w, bias, at::kBFloat16), norm_linear_reference(x, gain, w, bias, at::kBFloat16),
                 norm_linear_reference(wide(x), wide(gain), wide(w), wide(bias), at::kDouble), what + ": norm_linear");
    expect_close(norm_linear(h, {}, w, {}, at::kFloat), norm_linear_reference(h, {}, w, {}, at::kFloat),
                 norm_linear_reference(wide(h), {}, wide(w), {}, at::kDouble), what + ": linear in fp32");
    expect_close(norm_swiglu(x, gain, w), norm_swiglu_reference(x, gain, w), norm_swiglu_reference(wide(x), wide(gain), wide(w)),
                 what + ": norm_swiglu");
    expect_close(linear_add(h, w, residual), linear_add_reference(h, w, residual), linear_add_reference(wide(h), wide(w), wide(residual)),
                 what + ": linear_add");
    // A slice of a wider product, as the memory layers have it.
    const at::Tensor both = bf16({rows, 1, width + 16});
    EXPECT_TRUE(at::equal(norm_linear(both.narrow(2, 8, width), {}, w, {}, at::kFloat),
                          norm_linear(both.narrow(2, 8, width).contiguous(), {}, w, {}, at::kFloat)))
        << what;
  }
}

TEST_F(CudaStep, MoreRowsAndGradientsTakeThePlainPath) {
  const at::Tensor x = at::randn({9, 1, 64}, on_gpu(at::kFloat)), gain = at::randn({64}, on_gpu(at::kFloat)), w = bf16({32, 64});
  EXPECT_FALSE(step_kernels()->projection_supports(x, gain, w, {}, at::kBFloat16));
  EXPECT_TRUE(at::equal(norm_linear(x, gain, w, {}, at::kBFloat16), norm_linear_reference(x, gain, w, {}, at::kBFloat16)));
  const at::AutoGradMode with_grad(true);
  const at::Tensor few = at::randn({2, 1, 64}, on_gpu(at::kFloat)).requires_grad_(true);
  EXPECT_TRUE(norm_linear(few, gain, w, {}, at::kBFloat16).requires_grad());
}

TEST_F(CudaStep, WindowsAsRings) {
  for (int i = 0; i < 40; ++i) {
    const int64_t D = std::vector<int64_t>{32, 64, 128}[random_.below(3)], G = 1 + random_.below(3), R = 1 + random_.below(4), H = G * R;
    const int64_t B = 1 + random_.below(3), W = 2 + random_.below(i % 3 == 0 ? 700 : 200);
    const int64_t first = random_.chance(.5) ? (int64_t{1} << 33) + random_.below(1000) : W + random_.below(1000);
    const bool turned = random_.chance(.6), slopes = !turned && random_.chance(.6);
    const std::string what = fmt::format("B {} H {} Hkv {} D {} W {} at {}{}", B, H, G, D, W, first, slopes ? " ALiBi" : "");
    const at::Tensor q_gain = at::randn({D}, on_gpu(at::kFloat)) * .2 + 1, k_gain = at::randn({D}, on_gpu(at::kFloat)) * .2 + 1;
    const at::Tensor alibi = slopes ? at::randn({H}, on_gpu(at::kFloat)).abs() * .1 : at::Tensor();
    const at::Tensor position = at::full({}, first, on_gpu(at::kLong));
    const WindowRing ring{bf16({B, W, G, D}), bf16({B, W, G, D}), position};
    const WindowRing plain_ring{ring.k.clone(), ring.v.clone(), position};
    const WindowRing true_ring{ring.k.to(at::kDouble), ring.v.to(at::kDouble), position};
    for (int step = 0; step < 3; ++step) {
      const at::Tensor joined = bf16({B, 1, (H + 2 * G) * D});
      const RotaryTable table = turned ? rotary_table(position, 1, D, 1e4, at::kFloat) : RotaryTable{};
      const RotaryTable wide = turned ? rotary_table(position, 1, D, 1e4, at::kDouble) : RotaryTable{};
      if (turned) {
        EXPECT_LE(worst(table.cosine, wide.cosine) + worst(table.sine, wide.sine), 2e-7) << what;
      }
      ASSERT_EQ(step_kernels()->window_step_supports(joined, q_gain, k_gain, table, ring, alibi), has_code_) << what;
      const at::Tensor got = window_step(joined, q_gain, k_gain, table, ring, alibi),
                       plain = window_step_reference(joined, q_gain, k_gain, table, plain_ring, alibi),
                       want = window_step_reference(joined.to(at::kDouble), q_gain.to(at::kDouble), k_gain.to(at::kDouble), wide, true_ring,
                                                    alibi.defined() ? alibi.to(at::kDouble) : alibi);
      expect_close(got, plain, want, what);
      EXPECT_TRUE(at::equal(ring.v, plain_ring.v)) << what;
      EXPECT_LE(worst(ring.k, true_ring.k), largest(true_ring.k) / 200) << what;
      position.add_(1);
    }
  }
}

// Against the plain path (gathered chunks, weights and memory attention by themselves).
TEST_F(CudaStep, MemoryAttentionOverPages) {
  for (int i = 0; i < 60; ++i) {
    const int64_t D = std::vector<int64_t>{32, 64, 96, 128}[random_.below(4)], G = 1 + random_.below(2), R = 1 + random_.below(20),
                  H = G * R;
    const int64_t B = 1 + random_.below(3), S = i % 3 == 0 ? 64 : 1 + random_.below(80), Gi = random_.chance(.5) ? 1 : G;
    const int64_t N = i % 5 == 0 ? 1 + random_.below(128) : 1 + random_.below(16), count = 1 + random_.below(i % 7 == 0 ? 100 : 5);
    const bool shared = B > 1 && random_.chance(.5);
    ChunkPages pages;
    pages.first_chunk = random_.chance(.5) ? 0 : int64_t{1} << 35;
    int64_t chunks = 0;
    for (int64_t p = 0; p < count; ++p) {
      const int64_t some = p == 0 ? 1 + random_.below(9) : random_.below(9);
      for (auto* list : {&pages.k, &pages.v}) {
        const at::Tensor page = bf16({shared ? 1 : B, some + 2, S, G, D});
        list->push_back((shared ? page.expand({B, some + 2, S, G, D}) : page).narrow(1, 0, some));  // unused slots behind
      }
      chunks += some;
    }
    const ChunkWeighting weighting{random_.chance(.4), random_.chance(.4)};
    const std::string what =
        fmt::format("B {} H {} G {} D {} S {} Gi {} N {} pages {} chunks {}{}{}{}", B, H, G, D, S, Gi, N, count, chunks,
                    shared ? " shared" : "", weighting.stick_breaking ? " stick" : "", weighting.off_by_one ? " +1" : "");
    const at::Tensor index = testing::random_page_index(random_, B, Gi, N, chunks, pages.first_chunk);
    const at::Tensor score = at::randn({B, 1, Gi, N}, on_gpu(at::kFloat)) * 2, gain = at::randn({D}, on_gpu(at::kFloat)) * .2 + 1;
    const at::Tensor wider = bf16({B, 1, H * D + 64}), q = wider.narrow(2, 64, H * D).view({B, 1, H, D});
    ASSERT_EQ(hsa_pages_supports(q, gain, pages, index, score), has_code_) << what;
    const at::Tensor got = hsa_pages(q, gain, pages, index, score, weighting);
    ChunkPages wide{{}, {}, pages.first_chunk};
    for (int64_t p = 0; p < count; ++p) wide.k.push_back(pages.k[p].to(at::kDouble)), wide.v.push_back(pages.v[p].to(at::kDouble));
    const at::Tensor plain = hsa_pages_reference(q, gain, pages, index, score, weighting),
                     want = hsa_pages_reference(q.to(at::kDouble), gain.to(at::kDouble), wide, index, score, weighting);
    expect_close(got, plain, want, what);
    EXPECT_TRUE(at::equal(got, hsa_pages(q, gain, pages, index, score, weighting))) << what;
  }
}

// While a step is recorded what is visible is decided by the position on the device, not by the one at the time of the recording.
TEST_F(CudaStep, RecordedSelectionsSeeWhatTheirPositionSees) {
  for (int i = 0; i < 20; ++i) {
    const int64_t B = 1 + random_.below(2), width = 64, chunk = 1 + random_.below(64), count = i % 5 == 0 ? 60 : 1 + random_.below(5);
    std::vector<at::Tensor> pages;
    for (int64_t p = 0; p < count; ++p)
      pages.push_back(at::randint(-2, 3, {B, 1 + random_.below(200), 1, width}, on_gpu(at::kFloat)).to(at::kBFloat16));
    const at::Tensor all = at::cat(pages, 1), rq = at::randint(-2, 3, {B, 1, 1, width}, on_gpu(at::kFloat)).to(at::kBFloat16);
    const int64_t C = all.size(1), n = 1 + random_.below(std::min<int64_t>(C, i % 2 == 0 ? 8 : 40));
    Visibility then;
    then.chunk = chunk;
    then.first_position = random_.below(chunk * (C + 1));
    Visibility now = then;
    now.first_position = random_.below(chunk * (C + 1));
    const at::Tensor position = at::full({}, now.first_position, on_gpu(at::kLong));
    c10::impl::VirtualGuardImpl(at::kCUDA).synchronizeDevice(0);
    Selection got;
    {
      StepRecording recording(position);
      got = select_chunks(rq, pages, n, then);
      EXPECT_EQ(recording.lasting_selections, 1);
    }
    const Selection want = select_from_scores(landmark_scores(rq, all), n, now);
    EXPECT_TRUE(at::equal(got.index, want.index)) << fmt::format("C {} n {} chunk {} at {}", C, n, chunk, now.first_position);
    EXPECT_TRUE(at::equal(got.score, want.score));
  }
}

TEST_F(CudaStep, TheEndOfAStep) {
  for (int i = 0; i < 20; ++i) {
    const int64_t B = 1 + random_.below(9), V = 1 + random_.below(9000), d = 1 + random_.below(600), S = 1 + random_.below(80);
    const int64_t T = i % 4 == 0 ? 0 : 1 + random_.below(300), first = random_.chance(.5) ? random_.below(500) : int64_t{1} << 40;
    const auto make = [&] {
      return StepEnd{{},
                     {},
                     at::zeros({B, S, d}, on_gpu(at::kFloat)),
                     at::zeros({B, T, d}, on_gpu(at::kFloat)),
                     at::zeros({B, 1}, on_gpu(at::kLong)),
                     at::full({}, first, on_gpu(at::kLong)),
                     at::zeros({1}, on_gpu(at::kInt))};
    };
    StepEnd a = make(), b = make();
    for (int step = 0; step < 4; ++step) {
      a.x = b.x = at::randn({B, 1, d}, on_gpu(at::kFloat));
      // Few different numbers: ties, which fall to the smallest index.
      a.logits = b.logits = step % 2 == 0 ? at::randn({B, 1, V}, on_gpu(at::kFloat)) : at::randint(-3, 1, {B, 1, V}, on_gpu(at::kFloat));
      ASSERT_EQ(step_kernels()->end_step_supports(a), has_code_);
      end_step(a);
      end_step_reference(b);
      const at::Tensor top = std::get<0>(b.logits.max(-1));
      EXPECT_TRUE(at::equal(b.logits.select(1, 0).gather(1, a.best), top)) << "V " << V;
      // No smaller index holds the same number.
      const at::Tensor smaller = at::arange(V, on_gpu(at::kLong)).lt(a.best), equal = b.logits.select(1, 0).eq(top);
      EXPECT_FALSE(smaller.logical_and(equal).any().item<bool>());
      EXPECT_TRUE(at::equal(a.partial, b.partial) && at::equal(a.tail, b.tail) && at::equal(a.position, b.position));
    }
  }
}

}  // namespace
}  // namespace cairn
