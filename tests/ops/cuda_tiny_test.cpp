// The kernels on shapes so small that each tool of compute-sanitizer ends in seconds. Inputs are made and results are judged on the CPU, so
// that the GPU runs copies and the kernels alone: no product of cuBLAS, beside which racecheck fails and behind which initcheck reports
// what is none.
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include "cairn/core/random.h"
#include "cairn/ops/cuda/kernels.h"
#include "cairn/ops/hsa/direct.h"
#include "cairn/ops/hsa/hsa.h"
#include "cairn/ops/hsa/pages.h"
#include "cairn/ops/quantize/rows.h"
#include "cairn/ops/select/int8.h"
#include "cairn/ops/step/kernels.h"

namespace cairn {
namespace {

at::Tensor to_gpu(const at::Tensor& x) { return x.to(at::kCUDA); }

// Distinct chunks in every row, some slots unused, unused ones anywhere.
at::Tensor random_index(Random& random, at::IntArrayRef rows, int64_t N, int64_t C) {
  const at::Tensor index = at::full({rows[0], rows[1], rows[2], N}, -1, at::kLong);
  int64_t* p = index.mutable_data_ptr<int64_t>();
  for (int64_t row = 0; row < rows[0] * rows[1] * rows[2]; ++row, p += N) {
    const std::vector<int64_t> picked = random.choose(C, random.below(std::min(N, C) + 1));
    const std::vector<int64_t> places = random.choose(N, static_cast<int64_t>(picked.size()));
    for (size_t i = 0; i < picked.size(); ++i) p[places[i]] = picked[i];
  }
  return index;
}

class CudaTiny : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!at::globalContext().hasCUDA()) GTEST_SKIP() << "no GPU here";
    if (cuda_kernels() == nullptr || cuda_kernels()->hsa_forward == nullptr) GTEST_SKIP() << "built without CUDA";
    at::manual_seed(33);  // of the CPU's random tensors
  }

  struct Shape {
    int64_t B, L, H, G, D, S, N, C, Gi = 1, Hw = 1;
    bool off_by_one = false, want_lse = false, bf16_weight = false;
  };

  // Memory attention forward in one order (ops/hsa/cuda/plan.h): probabilities are rounded to bf16 once (by at most 2^-8) and so is o, so
  // that an error is at most 2^-7 of what the same sum makes of the values' sizes.
  void expect_hsa(const char* order, const std::vector<Shape>& shapes) {
    Random random(33, 1);
    for (const Shape& s : shapes) {
      const std::string what = fmt::format("{} order, B {} L {} H {} G {} D {} S {} N {} C {} Gi {} Hw {}{}{}", order, s.B, s.L, s.H, s.G,
                                           s.D, s.S, s.N, s.C, s.Gi, s.Hw, s.off_by_one ? " off by one" : "", s.want_lse ? " lse" : "");
      const auto real = [](at::IntArrayRef sizes) { return at::randn(sizes, at::kFloat).to(at::kBFloat16); };
      const at::Tensor q = real({s.B, s.L, s.H, s.D}), k = real({s.B, s.C * s.S + 3, s.G, s.D}), v = real(k.sizes());
      at::Tensor index = random_index(random, {s.B, s.L, s.Gi}, s.N, s.C);
      const at::Tensor w = at::rand({s.B, s.L, s.Hw, s.N}, at::kFloat).to(s.bf16_weight ? at::kBFloat16 : at::kFloat);
      if (!cuda_kernels()->hsa_supports(to_gpu(q), to_gpu(k), to_gpu(index), to_gpu(w), s.S, s.off_by_one, s.want_lse))
        GTEST_SKIP() << "the kernels of memory attention need compute capability 9.0 and sm_90a code";
      setenv("CAIRN_HSA_ORDER", order, 1);
      const HsaOutput got =
          cuda_kernels()->hsa_forward(to_gpu(q), to_gpu(k), to_gpu(v), to_gpu(index), to_gpu(w), s.S, s.off_by_one, s.want_lse);
      unsetenv("CAIRN_HSA_ORDER");
      const auto exact = [](const at::Tensor& x) { return x.to(at::kDouble); };
      const auto reference = [&](const at::Tensor& values) {
        return hsa_reference(exact(q), exact(k), values, index, exact(w), s.S, s.off_by_one, s.want_lse);
      };
      const HsaOutput want = reference(exact(v));
      const at::Tensor allowed = reference(exact(v).abs()).o / 128 + 1e-5;
      const at::Tensor error = (got.o.cpu().to(at::kDouble) - want.o).abs();
      EXPECT_TRUE(error.le(allowed).all().item<bool>()) << what << ": " << (error / allowed).max().item<double>() << " of what is allowed";
      if (s.want_lse) {
        EXPECT_LE((got.lse.cpu().to(at::kDouble) - want.lse).abs().max().item<double>(), 1e-4) << what;
      }
    }
  }
  Random random_{33, 2};
};

// Tokens of one and of several strips of 16 rows, several tokens a strip; few chunks and many (two ways to merge lists); chunks of fewer
// than 64 keys; every width; and more tiles than multiprocessors, so that queries, lists and stages are used again.
TEST_F(CudaTiny, UnionOrder) {
  expect_hsa("union", {
                          {1, 70, 16, 1, 64, 64, 4, 6},
                          {2, 70, 16, 1, 64, 64, 4, 6, 1, 1, false, true},
                          {1, 65, 16, 1, 64, 64, 3, 5, 1, 16, true, true},
                          {1, 50, 16, 2, 64, 64, 3, 5, 2, 2, false, true, true},
                          {1, 90, 16, 1, 64, 64, 5, 300},
                          {2, 40, 8, 1, 64, 64, 3, 280},
                          {1, 90, 12, 1, 64, 32, 3, 5},
                          {1, 33, 32, 1, 64, 64, 3, 4},
                          {1, 21, 24, 1, 64, 48, 3, 4, 1, 24},
                          {1, 40, 16, 1, 32, 64, 3, 4, 1, 1, true},
                          {1, 40, 16, 1, 96, 64, 3, 4},
                          {1, 40, 16, 1, 128, 64, 3, 4, 1, 16, false, true},
                          {1, 40, 16, 1, 128, 32, 4, 290},
                          {2, 290, 64, 1, 64, 16, 2, 5},
                          {1, 4300, 16, 1, 64, 16, 2, 7},
                          {1, 2200, 16, 1, 64, 16, 2, 300},
                      });
}

TEST_F(CudaTiny, RowOrder) {
  expect_hsa("row", {{2, 20, 16, 1, 64, 64, 4, 6, 1, 1, false, true}, {1, 9, 16, 2, 128, 80, 3, 5, 2, 16, true, true}});
}

TEST_F(CudaTiny, ChunkOrder) {
  expect_hsa("chunk", {{2, 70, 16, 1, 64, 64, 4, 6, 1, 1, false, true}, {1, 65, 16, 16, 64, 64, 3, 5, 1, 16, true, true}});
}

// Gradients, additions to those of keys and values in any order and in a fixed one; several heads a K/V head and one, whose rows come
// another way; chunks of more than 64 keys.
TEST_F(CudaTiny, Backward) {
  Random random(33, 3);
  for (const Shape& s : std::vector<Shape>{{2, 70, 16, 1, 64, 64, 4, 6, 1, 1, false, true},
                                           {1, 65, 8, 8, 64, 64, 3, 5, 8, 8, true},
                                           {1, 50, 12, 2, 64, 80, 3, 5, 1, 12, false, false, true}}) {
    const auto real = [](at::IntArrayRef sizes) { return at::randn(sizes, at::kFloat).to(at::kBFloat16); };
    const at::Tensor q = real({s.B, s.L, s.H, s.D}), g = real(q.sizes()), k = real({s.B, s.C * s.S, s.G, s.D}), v = real(k.sizes()),
                     w = at::rand({s.B, s.L, s.Hw, s.N}, at::kFloat), index = random_index(random, {s.B, s.L, s.Gi}, s.N, s.C);
    at::Tensor grad_lse, want_lse;
    if (s.want_lse) grad_lse = at::randn({s.B, s.L, s.H, s.N}, at::kFloat), want_lse = grad_lse.to(at::kDouble);
    if (!cuda_kernels()->hsa_supports(to_gpu(q), to_gpu(k), to_gpu(index), to_gpu(w), s.S, s.off_by_one, s.want_lse))
      GTEST_SKIP() << "the kernels of memory attention need compute capability 9.0 and sm_90a code";
    const auto exact = [](const at::Tensor& x) { return x.to(at::kDouble); };
    const HsaGradients want = hsa_reference_backward(exact(g), want_lse, exact(q), exact(k), exact(v), index, exact(w), s.S, s.off_by_one);
    for (const bool ordered : {false, true}) {
      at::globalContext().setDeterministicAlgorithms(ordered, false);
      const HsaGradients got = cuda_kernels()->hsa_backward(to_gpu(g), grad_lse.defined() ? to_gpu(grad_lse) : grad_lse, to_gpu(q),
                                                            to_gpu(k), to_gpu(v), to_gpu(index), to_gpu(w), s.S, s.off_by_one);
      at::globalContext().setDeterministicAlgorithms(false, false);
      const auto expect_near = [&](const at::Tensor& a, const at::Tensor& b, const char* what) {
        EXPECT_LE((a.cpu().to(at::kDouble) - b).abs().max().item<double>(), 0.02 * b.abs().max().item<double>())
            << what << ", H " << s.H << " G " << s.G << " S " << s.S << (ordered ? " ordered" : "");
      };
      expect_near(got.q, want.q, "dq"), expect_near(got.k, want.k, "dk"), expect_near(got.v, want.v, "dv");
      expect_near(got.weight, want.weight, "dweight");
    }
  }
}

struct Landmarks {
  Int8Landmarks on_gpu;
  at::Tensor exact;  // fp64, CPU
};

// Small whole numbers and scales that are powers of two: every sum and score is exact.
Landmarks make_landmarks(int64_t B, int64_t Q, int64_t width, bool shared, const std::vector<int64_t>& counts) {
  Landmarks made;
  std::vector<at::Tensor> exact;
  for (const int64_t c : counts) {
    const int64_t rows = shared ? 1 : B;
    const at::Tensor numbers = at::randint(-127, 128, {rows, c + 3, Q, width}, at::kFloat).to(at::kChar);
    const at::Tensor scale = at::pow(2.0, at::randint(-3, 3, {rows, c + 3, Q}, at::kFloat)).to(at::kBFloat16);
    made.on_gpu.numbers.push_back(to_gpu(numbers).narrow(1, 1, c).expand({B, c, Q, width}));
    made.on_gpu.scale.push_back(to_gpu(scale).narrow(1, 1, c).expand({B, c, Q}));
    exact.push_back((numbers.to(at::kDouble) * scale.to(at::kDouble).unsqueeze(-1)).narrow(1, 1, c).expand({B, c, Q, width}));
  }
  made.exact = at::cat(exact, 1);
  return made;
}

// The choice among exact scores: whole sums scaled by powers of two down to 1/8; 1 / sqrt(Dr) is multiplied last, here and there.
Selection choice(const at::Tensor& rq, const at::Tensor& landmarks, int64_t top_k, const Visibility& v) {
  const double root = std::sqrt(static_cast<double>(rq.size(3)));
  at::Tensor score = landmark_scores(rq.to(at::kDouble), landmarks);
  score = ((score * (8 * root)).round() / 8).to(at::kFloat) * static_cast<float>(1 / root);
  return select_from_scores(score, top_k, v);
}

void expect_same(const Selection& got, const Selection& want, const std::string& what) {
  EXPECT_TRUE(at::equal(got.index.cpu(), want.index)) << what;
  EXPECT_TRUE(at::equal(got.score.cpu(), want.score)) << what;
}

TEST_F(CudaTiny, Int8Selection) {
  struct Case {
    int64_t B, L, Q, width, top_k;
    bool shared;
    std::vector<int64_t> counts;
  };
  for (const Case& c : std::vector<Case>{{1, 1, 1, 64, 3, false, {5}},
                                         {1, 1, 1, 512, 8, false, {300, 0, 41}},
                                         {2, 3, 2, 16, 4, false, {130, 7}},
                                         {3, 4, 1, 1024, 5, true, {150}},
                                         {1, 10, 1, 128, 128, false, {700}},
                                         {1, 2, 3, 48, 9, false, std::vector<int64_t>(70, 3)}}) {
    const Landmarks landmarks = make_landmarks(c.B, c.Q, c.width, c.shared, c.counts);
    const int64_t C = landmarks.on_gpu.chunks();
    Visibility v;
    v.chunk = 4;
    v.first_position = 4 * C - 9;
    v.exclude_window = c.L == 3 ? 5 : 0;
    const at::Tensor rq = at::randint(-4, 5, {c.B, c.L, c.Q, c.width}, at::kFloat).to(at::kBFloat16);
    const std::string what = fmt::format("B {} L {} Q {} Dr {} N {} C {}", c.B, c.L, c.Q, c.width, c.top_k, C);
    const int64_t n = std::min(c.top_k, C);
    ASSERT_TRUE(step_kernels()->select_int8_supports(to_gpu(rq), landmarks.on_gpu, n)) << what;
    expect_same(step_kernels()->select_int8(to_gpu(rq), landmarks.on_gpu, n, v), choice(rq, landmarks.exact, n, v), what);
  }
}

// Real numbers by the kernels of bf16 and fp32 landmarks: scores up to the rounding of fp32 sums, and no chunk left out that has more.
TEST_F(CudaTiny, Selection) {
  struct Case {
    int64_t L, C, width, top_k;
    at::ScalarType query, landmark;
  };
  for (const Case& c : std::vector<Case>{{1, 40, 64, 3, at::kBFloat16, at::kBFloat16},
                                         {3, 300, 512, 8, at::kBFloat16, at::kBFloat16},
                                         {2, 300, 64, 5, at::kFloat, at::kFloat},
                                         {1, 300, 64, 5, at::kFloat, at::kBFloat16},
                                         {200, 300, 64, 8, at::kBFloat16, at::kBFloat16},
                                         {40, 500, 128, 33, at::kBFloat16, at::kBFloat16},
                                         {20, 260, 64, 128, at::kBFloat16, at::kBFloat16}}) {
    const at::Tensor rq = at::randn({1, c.L, 1, c.width}, at::kFloat).to(c.query),
                     landmarks = at::randn({1, c.C, 1, c.width}, at::kFloat).to(c.landmark);
    Visibility v;
    v.chunk = 1;
    v.first_position = c.C;  // all are visible
    const std::string what = fmt::format("L {} C {} Dr {} N {} {}", c.L, c.C, c.width, c.top_k, c10::toString(c.landmark));
    const std::vector<at::Tensor> pages = {to_gpu(landmarks)};
    ASSERT_TRUE(cuda_kernels()->select_supports(to_gpu(rq), pages, c.top_k, v)) << what;
    const Selection got = cuda_kernels()->select_chunks(to_gpu(rq), pages, c.top_k, v);
    const at::Tensor index = got.index.cpu(), score = got.score.cpu().to(at::kDouble);
    ASSERT_TRUE(index.ge(0).logical_and(index.lt(c.C)).all().item<bool>()) << what;
    const at::Tensor all = landmark_scores(rq.to(at::kDouble), landmarks.to(at::kDouble));
    const double slack = 1e-5 * all.abs().max().item<double>();
    EXPECT_LE((all.gather(3, index) - score).abs().max().item<double>(), slack) << what;
    EXPECT_TRUE(score.amin(3).ge(std::get<0>(all.topk(c.top_k, 3)).select(3, c.top_k - 1) - slack).all().item<bool>()) << what;
    if (c.top_k > 1) {
      EXPECT_TRUE(index.narrow(3, 0, c.top_k - 1).gt(index.narrow(3, 1, c.top_k - 1)).all().item<bool>()) << what;
    }
  }
}

// Attention of single tokens over pages of 8-bit rows, and of bf16 rows.
TEST_F(CudaTiny, Pages) {
  struct Case {
    int64_t B, G, R, D, S, N, Gi;
    std::vector<int64_t> counts;
    bool shared, host, bytes;
  };
  for (const Case& c : std::vector<Case>{{1, 1, 16, 64, 64, 4, 1, {5, 0, 3}, false, false, true},
                                         {2, 2, 5, 32, 17, 9, 2, {4, 4}, true, false, true},
                                         {1, 1, 20, 96, 48, 1, 1, {3}, false, true, true},
                                         {1, 1, 8, 128, 80, 3, 1, std::vector<int64_t>(70, 1), false, false, true},
                                         {2, 1, 16, 64, 64, 4, 1, {5, 3}, false, false, false}}) {
    const int64_t H = c.G * c.R, rows = c.shared ? 1 : c.B;
    ChunkPages on_gpu, exact, plain;
    on_gpu.first_chunk = exact.first_chunk = plain.first_chunk = int64_t{1} << 35;
    int64_t chunks = 0;
    for (const int64_t some : c.counts) {
      for (const bool key : {true, false}) {
        const at::Tensor size = at::pow(2.0, at::randint(-3, 4, {rows, some + 2, c.S, c.G, 1}, at::kFloat) / 2);
        const Int8Rows made = quantize_rows(at::randn({rows, some + 2, c.S, c.G, c.D}, at::kFloat) * size);
        const auto cut = [&](const at::Tensor& x) {
          std::vector<int64_t> sizes = x.sizes().vec();
          sizes[0] = c.B;
          return x.expand(sizes).narrow(1, 0, some);
        };
        const at::Tensor wide = dequantize_rows(made.numbers, made.scale, at::kFloat),
                         lies = c.bytes ? made.numbers : wide.to(at::kBFloat16);
        (key ? on_gpu.k : on_gpu.v).push_back(cut(c.host ? lies.pin_memory() : to_gpu(lies)));
        if (c.bytes) (key ? on_gpu.k_scale : on_gpu.v_scale).push_back(cut(to_gpu(made.scale)));
        (key ? plain.k : plain.v).push_back(cut(wide.to(at::kBFloat16)));
        (key ? exact.k : exact.v).push_back(cut((c.bytes ? wide : wide.to(at::kBFloat16)).to(at::kDouble)));
      }
      chunks += some;
    }
    const ChunkWeighting weighting{c.N == 9, c.N == 1};
    const at::Tensor chosen = random_index(random_, {c.B, 1, c.Gi}, c.N, chunks);
    const at::Tensor its = chosen.add(on_gpu.first_chunk).masked_fill(chosen.lt(0), -1),
                     score = at::randn({c.B, 1, c.Gi, c.N}, at::kFloat) * 2, gain = at::randn({c.D}, at::kFloat) * .2 + 1,
                     q = at::randn({c.B, 1, H, c.D}, at::kFloat).to(at::kBFloat16);
    const std::string what =
        fmt::format("B {} H {} G {} D {} S {} N {} pages {}{}", c.B, H, c.G, c.D, c.S, c.N, c.counts.size(), c.bytes ? " 8-bit" : "");
    if (!hsa_pages_supports(to_gpu(q), to_gpu(gain), on_gpu, to_gpu(its), to_gpu(score))) GTEST_SKIP() << "needs compute capability 9.0";
    const at::Tensor got = hsa_pages(to_gpu(q), to_gpu(gain), on_gpu, to_gpu(its), to_gpu(score), weighting).cpu().to(at::kDouble);
    const at::Tensor want = hsa_pages_reference(q.to(at::kDouble), gain.to(at::kDouble), exact, its, score, weighting),
                     rough = hsa_pages_reference(q, gain, plain, its, score, weighting).to(at::kDouble);
    EXPECT_LE((got - want).abs().max().item<double>(),
              2 * (rough - want).abs().max().item<double>() + want.abs().max().item<double>() / 512)
        << what;
  }
}

// Rows become the same 8-bit rows on every device.
TEST_F(CudaTiny, QuantizedRows) {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const at::Tensor x = (at::randn({40, 3, 64}, at::kFloat) * at::pow(2.0, at::randint(-20, 20, {40, 3, 1}, at::kFloat))).to(type);
    const Int8Rows want = quantize_rows(x), got = quantize_rows(to_gpu(x));
    EXPECT_TRUE(at::equal(got.numbers.cpu(), want.numbers));
    EXPECT_TRUE(at::equal(got.scale.cpu(), want.scale));
    for (const auto as : {at::kFloat, at::kBFloat16}) {
      EXPECT_TRUE(at::equal(dequantize_rows(got.numbers, got.scale, as).cpu(), dequantize_rows(want.numbers, want.scale, as)));
    }
  }
}

}  // namespace
}  // namespace cairn
