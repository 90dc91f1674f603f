// The kernels that read 8-bit landmarks, keys and values as they lie, against the plain paths over the dequantised rows.
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "cairn/core/random.h"
#include "cairn/ops/cuda/kernels.h"
#include "cairn/ops/hsa/pages.h"
#include "cairn/ops/quantize/rows.h"
#include "cairn/ops/select/int8.h"
#include "cairn/ops/step/kernels.h"
#include "ops/pages_case.h"

namespace cairn {
namespace {

at::TensorOptions on_gpu(at::ScalarType type) { return at::TensorOptions(at::kCUDA).dtype(type); }

class CudaInt8 : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!at::globalContext().hasCUDA()) GTEST_SKIP() << "no GPU here";
    if (step_kernels() == nullptr || step_kernels()->select_int8 == nullptr) GTEST_SKIP() << "built without CUDA";
  }
  Random random_{17, 75};
};

struct Shape {
  int64_t B, L, Q, width;
};

// whole: small whole numbers and scales that are powers of two, so that every sum and score is exact.
Int8Landmarks make_landmarks(Random& random, const Shape& s, int64_t most, int64_t count, bool whole, bool shared) {
  Int8Landmarks made;
  for (; count > 0; --count) {
    const int64_t c = random.chance(0.2) && count > 1 ? random.below(3) : 1 + random.below(most), rows = shared ? 1 : s.B;
    at::Tensor numbers, scale;
    if (whole) {
      numbers = at::randint(-127, 128, {rows, c + 3, s.Q, s.width}, on_gpu(at::kFloat)).to(at::kChar);
      scale = at::pow(2.0, at::randint(-3, 3, {rows, c + 3, s.Q}, on_gpu(at::kFloat))).to(at::kBFloat16);
    } else {
      const Int8Rows made_of = quantize_rows(at::randn({rows, c + 3, s.Q, s.width}, on_gpu(at::kFloat)));
      numbers = made_of.numbers, scale = made_of.scale;
    }
    made.numbers.push_back(numbers.narrow(1, 1, c).expand({s.B, c, s.Q, s.width}));
    made.scale.push_back(scale.narrow(1, 1, c).expand({s.B, c, s.Q}));
  }
  return made;
}

at::Tensor whole_and_exact(const Int8Landmarks& landmarks) {
  return dequantize_rows(at::cat(landmarks.numbers, 1), at::cat(landmarks.scale, 1), at::kFloat);
}

TEST_F(CudaInt8, SelectionsAreExact) {
  for (int i = 0; i < 120; ++i) {
    const Shape s{1 + random_.below(3), i % 4 == 0 ? 1 + random_.below(10) : 1 + random_.below(3), 1 + random_.below(3),
                  std::vector<int64_t>{16, 48, 64, 128, 192, 512, 1024}[random_.below(7)]};
    const bool shared = s.B > 1 && random_.chance(.4);
    const int64_t top_k = random_.chance(.3) ? 1 + random_.below(128) : 1 + random_.below(12);
    const Int8Landmarks landmarks =
        make_landmarks(random_, s, i % 10 == 0 ? 20000 : 500, i % 6 == 0 ? 60 : 1 + random_.below(5), true, shared);
    const int64_t C = landmarks.chunks();
    Visibility v;
    v.chunk = 1 + random_.below(70);
    v.first_chunk = random_.chance(.3) ? int64_t{1} << 33 : 0;
    v.first_position = v.chunk * v.first_chunk + random_.below(v.chunk * (C + 2));
    v.exclude_window = random_.chance(.4) ? 1 + random_.below(2 * v.chunk) : 0;
    const at::Tensor rq = at::randint(-4, 5, {s.B, s.L, s.Q, s.width}, on_gpu(at::kFloat)).to(at::kBFloat16);
    const std::string what = fmt::format("case {}: B {} L {} Q {} Dr {} N {} C {} pages {}{}", i, s.B, s.L, s.Q, s.width, top_k, C,
                                         landmarks.numbers.size(), shared ? " shared" : "");
    ASSERT_TRUE(step_kernels()->select_int8_supports(rq, landmarks, std::min(top_k, C))) << what;
    const Selection got = select_chunks(rq, landmarks, top_k, v);
    // Whole sums below 2^24, scaled by powers of two down to 1/8; 1 / sqrt(Dr) is multiplied last, here and there.
    at::Tensor score = landmark_scores(rq.to(at::kDouble), whole_and_exact(landmarks).to(at::kDouble));
    const double root = std::sqrt(static_cast<double>(s.width));
    score = ((score * (8 * root)).round() / 8).to(at::kFloat) * static_cast<float>(1 / root);
    const Selection want = select_from_scores(score, top_k, v);
    ASSERT_TRUE(at::equal(got.index, want.index)) << what;
    ASSERT_TRUE(at::equal(got.score, want.score)) << what << ": " << (got.score - want.score).abs().max().item<double>();
  }
}

// Any numbers: scores are those of the dequantised landmarks up to the rounding of an fp32 sum, and no chunk that was left out has more
// than that above one that was chosen.
TEST_F(CudaInt8, SelectionsOfAnyNumbers) {
  for (int i = 0; i < 40; ++i) {
    const Shape s{1 + random_.below(2), 1 + random_.below(3), 1 + random_.below(2), std::vector<int64_t>{64, 256, 512}[random_.below(3)]};
    const Int8Landmarks landmarks = make_landmarks(random_, s, 3000, 1 + random_.below(4), false, false);
    const int64_t C = landmarks.chunks(), top_k = 1 + random_.below(std::min<int64_t>(C, 20));
    Visibility v;
    v.chunk = 4;
    v.first_position = 4 * (C + 1);  // all are visible
    const at::Tensor rq = at::randn({s.B, s.L, s.Q, s.width}, on_gpu(at::kFloat)).to(at::kBFloat16);
    const Selection got = select_chunks(rq, landmarks, top_k, v);
    const at::Tensor all = landmark_scores(rq.to(at::kDouble), whole_and_exact(landmarks).to(at::kDouble));
    const double slack = 1e-5 * all.abs().max().item<double>();
    EXPECT_TRUE(got.index.ge(0).all().item<bool>());
    EXPECT_LE((all.gather(-1, got.index) - got.score).abs().max().item<double>(), slack);
    const at::Tensor bar = std::get<0>(all.topk(top_k, -1)).select(-1, top_k - 1);
    EXPECT_TRUE(got.score.amin(-1).ge(bar - slack).all().item<bool>());
    EXPECT_TRUE(at::equal(std::get<0>(got.index.sort(-1, true)), got.index));  // nearest first, none twice
    if (top_k > 1) {
      EXPECT_TRUE(got.index.narrow(-1, 0, top_k - 1).gt(got.index.narrow(-1, 1, top_k - 1)).all().item<bool>());
    }
  }
}

TEST_F(CudaInt8, RecordedSelectionsSeeWhatTheirPositionSees) {
  for (int i = 0; i < 20; ++i) {
    const Shape s{1 + random_.below(2), 1, 1, 64};
    const Int8Landmarks landmarks = make_landmarks(random_, s, 200, i % 5 == 0 ? 60 : 1 + random_.below(5), true, false);
    const at::Tensor rq = at::randint(-2, 3, {s.B, 1, 1, 64}, on_gpu(at::kFloat)).to(at::kBFloat16);
    const int64_t C = landmarks.chunks(), n = 1 + random_.below(std::min<int64_t>(C, 8));
    Visibility then;
    then.chunk = 1 + random_.below(64);
    then.first_position = random_.below(then.chunk * (C + 1));
    Visibility now = then;
    now.first_position = random_.below(then.chunk * (C + 1));
    const at::Tensor position = at::full({}, now.first_position, on_gpu(at::kLong));
    c10::impl::VirtualGuardImpl(at::kCUDA).synchronizeDevice(0);
    Selection got;
    {
      StepRecording recording(position);
      got = select_chunks(rq, landmarks, n, then);
      EXPECT_EQ(recording.lasting_selections, 1);
    }
    const Selection want = select_from_scores(landmark_scores(rq.to(at::kFloat), whole_and_exact(landmarks)), n, now);
    EXPECT_TRUE(at::equal(got.index, want.index)) << fmt::format("C {} n {} chunk {} at {}", C, n, now.chunk, now.first_position);
    EXPECT_TRUE(at::equal(got.score, want.score));
  }
}

TEST_F(CudaInt8, MemoryAttentionOverPages) {
  for (int i = 0; i < 60; ++i) {
    const int64_t D = std::vector<int64_t>{32, 64, 96, 128}[random_.below(4)], G = 1 + random_.below(2), R = 1 + random_.below(20),
                  H = G * R;
    const int64_t B = 1 + random_.below(3), S = i % 3 == 0 ? 64 : 1 + random_.below(80), Gi = random_.chance(.5) ? 1 : G;
    const int64_t N = i % 5 == 0 ? 1 + random_.below(128) : 1 + random_.below(16), count = 1 + random_.below(i % 7 == 0 ? 100 : 5);
    const bool shared = B > 1 && random_.chance(.5), host = random_.chance(.3);
    ChunkPages pages, wide, short_pages;
    pages.first_chunk = wide.first_chunk = short_pages.first_chunk = random_.chance(.5) ? 0 : int64_t{1} << 35;
    int64_t chunks = 0;
    for (int64_t p = 0; p < count; ++p) {
      const int64_t some = p == 0 ? 1 + random_.below(9) : random_.below(9);
      for (const bool key : {true, false}) {
        // Rows of very different sizes: a scale that is missing or another row's would be seen.
        const at::Tensor size = at::pow(2.0, at::randint(-3, 4, {shared ? 1 : B, some + 2, S, G, 1}, on_gpu(at::kFloat)) / 2);
        const Int8Rows rows = quantize_rows(at::randn({shared ? 1 : B, some + 2, S, G, D}, on_gpu(at::kFloat)) * size);
        const at::Tensor exact = dequantize_rows(rows.numbers, rows.scale, at::kFloat).expand({B, some + 2, S, G, D}).narrow(1, 0, some);
        const at::Tensor numbers = host ? rows.numbers.cpu().pin_memory() : rows.numbers;
        (key ? pages.k : pages.v).push_back(numbers.expand({B, some + 2, S, G, D}).narrow(1, 0, some));
        (key ? pages.k_scale : pages.v_scale).push_back(rows.scale.expand({B, some + 2, S, G}).narrow(1, 0, some));
        (key ? wide.k : wide.v).push_back(exact.to(at::kDouble));
        (key ? short_pages.k : short_pages.v).push_back(exact.to(at::kBFloat16));
      }
      chunks += some;
    }
    const ChunkWeighting weighting{random_.chance(.4), random_.chance(.4)};
    const std::string what = fmt::format("B {} H {} G {} D {} S {} Gi {} N {} pages {} chunks {}{}{}", B, H, G, D, S, Gi, N, count, chunks,
                                         shared ? " shared" : "", host ? " host" : "");
    const at::Tensor index = testing::random_page_index(random_, B, Gi, N, chunks, pages.first_chunk);
    const at::Tensor score = at::randn({B, 1, Gi, N}, on_gpu(at::kFloat)) * 2, gain = at::randn({D}, on_gpu(at::kFloat)) * .2 + 1;
    const at::Tensor q = at::randn({B, 1, H, D}, on_gpu(at::kFloat)).to(at::kBFloat16);
    ASSERT_TRUE(hsa_pages_supports(q, gain, pages, index, score)) << what;
    const at::Tensor got = hsa_pages(q, gain, pages, index, score, weighting);
    const at::Tensor plain = hsa_pages_reference(q, gain, short_pages, index, score, weighting),
                     want = hsa_pages_reference(q.to(at::kDouble), gain.to(at::kDouble), wide, index, score, weighting);
    EXPECT_EQ(got.scalar_type(), at::kBFloat16);
    const auto worst = [&](const at::Tensor& x) { return (x.to(at::kDouble) - want).abs().max().item<double>(); };
    EXPECT_LE(worst(got), 2 * worst(plain) + want.abs().max().item<double>() / 512) << what;
    EXPECT_TRUE(at::equal(got, hsa_pages(q, gain, pages, index, score, weighting))) << what;
    if (!host) {
      pages.type = at::kBFloat16;  // the plain path over the same 8-bit pages
      EXPECT_TRUE(at::equal(hsa_pages_reference(q, gain, pages, index, score, weighting), plain)) << what;
    }
  }
}

}  // namespace
}  // namespace cairn
