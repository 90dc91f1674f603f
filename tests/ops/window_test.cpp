#include "cairn/ops/window/window.h"

#include <ATen/Parallel.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "cairn/ops/window/private.h"
#include "ops/compare.h"

namespace cairn {
namespace {

using namespace testing;

struct Shape {
  int64_t B, L, M, H, G, D, W;
  bool alibi = false;
  std::string text() const { return fmt::format("B {} L {} M {} H {} G {} D {} W {} alibi {}", B, L, M, H, G, D, W, alibi); }
};

Tensors make(const Shape& s, Random& random) {
  return {normal(random, {s.B, s.L, s.H, s.D}), normal(random, {s.B, s.M, s.G, s.D}), normal(random, {s.B, s.M, s.G, s.D})};
}

at::Tensor slopes_of(const Shape& s) {
  return s.alibi ? at::pow(2.0, at::arange(1, s.H + 1, at::TensorOptions().dtype(at::kFloat).device(test_device())) * (-8.0 / s.H))
                 : at::Tensor();
}

Operator fast(const Shape& s) {
  return [=](const Tensors& x) { return window_attention(x[0], x[1], x[2], s.W, slopes_of(s)); };
}
Operator reference(const Shape& s) {
  return [=](const Tensors& x) { return window_attention_reference(x[0], x[1], x[2], s.W, slopes_of(s)); };
}
Operator full_fast() {
  return [](const Tensors& x) { return full_attention(x[0], x[1], x[2]); };
}
Operator full_reference() {
  return [](const Tensors& x) { return full_attention_reference(x[0], x[1], x[2]); };
}

// Every operation in bf16; W = 0: no mask.
Operator naive(const Shape& s) {
  return [=](const Tensors& x) {
    const int64_t rep = s.H / s.G;
    const at::Tensor k = x[1].repeat_interleave(rep, 2).transpose(1, 2), v = x[2].repeat_interleave(rep, 2).transpose(1, 2);
    at::Tensor score = at::matmul(x[0].transpose(1, 2), k.transpose(2, 3)) / std::sqrt(static_cast<double>(s.D));
    if (s.W > 0) {
      const auto index = at::TensorOptions().dtype(at::kLong).device(test_device());
      const at::Tensor distance = at::arange(s.M - s.L, s.M, index).unsqueeze(1) - at::arange(s.M, index);
      if (s.alibi) score = score - slopes_of(s).to(score.scalar_type()).view({s.H, 1, 1}) * distance.to(score.scalar_type());
      score = score.masked_fill((distance < 0).logical_or(distance >= s.W), -std::numeric_limits<double>::infinity());
    }
    return at::matmul(at::softmax(score, -1), v).transpose(1, 2);
  };
}

std::vector<Shape> shapes(Random& random) {
  std::vector<Shape> all = {{1, 1, 1, 1, 1, 8, 1},        {2, 1, 300, 8, 2, 32, 129},      {1, 5, 5, 2, 1, 16, 1},
                            {1, 40, 40, 4, 4, 32, 100},   {1, 33, 64, 6, 3, 24, 8},        {2, 150, 150, 4, 1, 64, 17},
                            {1, 200, 328, 2, 2, 128, 33}, {1, 70, 90, 4, 2, 32, 16, true}, {1, 130, 130, 3, 1, 8, 40, true},
                            {1, 65, 4000, 2, 1, 16, 512}};
  for (int i = 0; i < 6; ++i) {
    Shape s;
    s.B = 1 + random.below(3);
    s.G = 1 + random.below(3);
    s.H = s.G * (1 + random.below(4));
    s.D = 8 * (1 + random.below(9));
    s.L = 1 + random.below(180);
    s.M = s.L + random.below(90);
    s.W = 1 + random.below(140);
    s.alibi = random.chance(0.3);
    all.push_back(s);
  }
  return all;
}

class Window : public ::testing::Test {
 protected:
  void SetUp() override { CAIRN_NEED_TEST_DEVICE(); }
  Random random_{20251, 7};
};

// The definition itself, written as loops over scalars.
TEST_F(Window, ReferenceIsTheDefinition) {
  const Shape s{1, 9, 14, 4, 2, 8, 4, true};
  const Tensors x = make(s, random_);
  const at::Tensor o = window_attention_reference(x[0], x[1], x[2], s.W, slopes_of(s));
  const auto at4 = [](const at::Tensor& t, int64_t i, int64_t h, int64_t d) { return t[0][i][h][d].item<double>(); };
  const at::Tensor slopes = slopes_of(s);
  for (int64_t t = 0; t < s.L; ++t)
    for (int64_t h = 0; h < s.H; ++h) {
      const int64_t p = t + s.M - s.L, g = h / 2;
      double total = 0;
      std::vector<double> want(s.D);
      for (int64_t j = std::max<int64_t>(0, p - s.W + 1); j <= p; ++j) {
        double dot = 0;
        for (int64_t d = 0; d < s.D; ++d) dot += at4(x[0], t, h, d) * at4(x[1], j, g, d);
        const double weight = std::exp(dot / std::sqrt(8.0) - slopes[h].item<double>() * static_cast<double>(p - j));
        total += weight;
        for (int64_t d = 0; d < s.D; ++d) want[d] += weight * at4(x[2], j, g, d);
      }
      for (int64_t d = 0; d < s.D; ++d) ASSERT_NEAR(at4(o, t, h, d), want[d] / total, 1e-12);
    }
}

TEST_F(Window, ReferenceGradientIsTheDifference) {
  for (const Shape& s : {Shape{2, 7, 10, 4, 2, 8, 3}, Shape{1, 6, 6, 2, 1, 8, 50, true}}) {
    const Tensors x = make(s, random_);
    const at::Tensor c = normal(random_, x[0].sizes());
    expect_differences(reference(s), x, c, random_, s.text());
  }
  const Shape s{3, 5, 5, 4, 2, 8, 0};
  const Tensors x = make(s, random_);
  const at::Tensor c = normal(random_, x[0].sizes());
  expect_differences(full_reference(), x, c, random_, "full");
}

TEST_F(Window, Fp32) {
  for_each_isa([&](const std::string& isa) {
    for (const Shape& s : shapes(random_)) {
      const Tensors x = make(s, random_);
      const at::Tensor c = normal(random_, x[0].sizes());
      expect_close_fp32(fast(s), reference(s), x, c, isa + " " + s.text());
    }
  });
}

TEST_F(Window, Bf16) {
  for_each_isa([&](const std::string& isa) {
    for (const Shape& s : shapes(random_)) {
      const Tensors x = make(s, random_);
      const at::Tensor c = normal(random_, x[0].sizes());
      expect_close_bf16(fast(s), reference(s), naive(s), x, c, isa + " " + s.text());
    }
  });
}

TEST_F(Window, FullRows) {
  for_each_isa([&](const std::string& isa) {
    for (const Shape& s : {Shape{37, 65, 65, 4, 4, 32, 0}, Shape{50, 9, 9, 4, 2, 8, 0}, Shape{3, 17, 17, 8, 1, 64, 0},
                           Shape{2, 1, 1, 2, 1, 16, 0}, Shape{2, 129, 129, 2, 2, 20, 0}}) {
      const Tensors x = make(s, random_);
      const at::Tensor c = normal(random_, x[0].sizes());
      expect_close_fp32(full_fast(), full_reference(), x, c, isa + " " + s.text());
      expect_close_bf16(full_fast(), full_reference(), naive(s), x, c, isa + " " + s.text());
    }
  });
}

// Several spans of queries, so that the keys between them get their gradient from two.
TEST_F(Window, ManySpans) {
  const Shape s{1, 3000, 3050, 2, 1, 64, 64};
  const Tensors x = make(s, random_);
  const at::Tensor c = normal(random_, x[0].sizes());
  const Operator blocks = [&](const Tensors& t) { return window_attention_blocks(t[0], t[1], t[2], s.W, {}); };
  expect_close_fp32(fast(s), blocks, x, c, s.text());
}

TEST_F(Window, BlocksAreTheReference) {
  const Shape s{1, 1100, 1300, 2, 1, 8, 40, true};
  const Tensors x = make(s, random_);
  const at::Tensor a = window_attention_blocks(x[0], x[1], x[2], s.W, slopes_of(s)),
                   b = window_attention_reference(x[0], x[1], x[2], s.W, slopes_of(s));
  EXPECT_LE(worst(a, b), 1e-13);
}

// A segment with history gives what the whole gives, and nothing depends on keys that are later or further back.
TEST_F(Window, SegmentsAndCausality) {
  const Shape s{1, 400, 400, 4, 2, 32, 37};
  Tensors x = make(s, random_);
  for (at::Tensor& t : x) t = t.to(at::kFloat);
  const at::Tensor whole = window_attention(x[0], x[1], x[2], s.W);
  std::vector<at::Tensor> parts;
  for (int64_t t = 0; t < s.L; t += 77) {
    const int64_t n = std::min<int64_t>(77, s.L - t), first = std::max<int64_t>(0, t - s.W + 1);
    parts.push_back(
        window_attention(x[0].narrow(1, t, n), x[1].narrow(1, first, t + n - first), x[2].narrow(1, first, t + n - first), s.W));
  }
  EXPECT_LE(worst(whole, at::cat(parts, 1)), 1e-6);
  const at::Tensor k = x[1].clone(), v = x[2].clone();
  k.narrow(1, 300, 100).fill_(50.0);
  v.narrow(1, 300, 100).fill_(1e30);
  k.narrow(1, 0, 64).fill_(50.0);
  v.narrow(1, 0, 64).fill_(-7.0);
  EXPECT_TRUE(at::equal(whole.narrow(1, 100, 190), window_attention(x[0], k, v, s.W).narrow(1, 100, 190)));
}

TEST_F(Window, StridedInputs) {
  const at::Tensor joint = normal(random_, {2, 50, 3, 4, 32}).to(at::kFloat);
  const at::Tensor q = joint.select(2, 0), k = joint.select(2, 1), v = joint.select(2, 2);
  EXPECT_TRUE(at::equal(window_attention(q, k, v, 20), window_attention(q.contiguous(), k.contiguous(), v.contiguous(), 20)));
  const at::Tensor turned = q.transpose(2, 3).contiguous().transpose(2, 3);
  EXPECT_TRUE(at::equal(window_attention(turned, k, v, 20), window_attention(q, k, v, 20)));
}

TEST_F(Window, Empty) {
  const auto options = at::TensorOptions().dtype(at::kFloat).device(test_device());
  const at::Tensor none = at::zeros({1, 0, 4, 32}, options).requires_grad_(true),
                   keys = at::zeros({1, 12, 2, 32}, options).requires_grad_(true);
  const at::Tensor o = window_attention(none, keys, keys, 8);
  EXPECT_EQ(o.sizes(), none.sizes());
  EXPECT_EQ(largest(torch::autograd::grad({o.sum()}, {keys})[0]), 0.0);
  const at::Tensor rows = at::zeros({0, 65, 4, 32}, options);
  EXPECT_EQ(full_attention(rows, rows, rows).sizes(), rows.sizes());
}

// Huge scores neither overflow nor make NaN; NaN inputs stay visible.
TEST_F(Window, Extremes) {
  const Shape s{1, 40, 40, 2, 1, 16, 9};
  Tensors x = make(s, random_);
  for (at::Tensor& t : x) t = t.to(at::kFloat);
  const at::Tensor hot = window_attention(x[0] * 1e4, x[1] * 1e4, x[2], s.W);
  EXPECT_LE(worst(hot, window_attention_reference((x[0] * 1e4).to(at::kDouble), (x[1] * 1e4).to(at::kDouble), x[2].to(at::kDouble), s.W)),
            1e-3);
  x[0][0][7][1][3] = std::numeric_limits<float>::quiet_NaN();
  const at::Tensor bad = window_attention(x[0], x[1], x[2], s.W).isnan();
  EXPECT_TRUE(bad[0][7][1].all().item<bool>());
  EXPECT_EQ(bad.sum().item<int64_t>(), s.D);
}

TEST_F(Window, RepeatsToTheBit) {
  const Shape s{2, 700, 760, 4, 2, 32, 129};
  const Tensors x = make(s, random_);
  const at::Tensor c = normal(random_, x[0].sizes());
  for (auto type : {at::kFloat, at::kBFloat16}) expect_repeats(fast(s), x, c, type, s.text());
  if (test_device().is_cuda()) return;
  // Nor does the number of threads matter.
  const int threads = at::get_num_threads();
  const Outcome many = outcome(fast(s), x, c, at::kFloat);
  at::set_num_threads(1);
  const Outcome one = outcome(fast(s), x, c, at::kFloat);
  at::set_num_threads(threads);
  EXPECT_TRUE(at::equal(many.y, one.y));
  for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(at::equal(many.grads[i], one.grads[i]));
}

}  // namespace
}  // namespace cairn
