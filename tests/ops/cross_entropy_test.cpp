#include "cairn/ops/cross_entropy/cross_entropy.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <cmath>

#include "ops/compare.h"

namespace cairn {
namespace {

using namespace testing;

class CrossEntropyTest : public ::testing::Test {
 protected:
  void SetUp() override { CAIRN_NEED_TEST_DEVICE(); }
  at::Tensor targets(int64_t rows, int64_t vocab) {
    at::Tensor t = at::zeros({rows}, at::kLong);
    for (int64_t i = 0; i < rows; ++i) t[i] = random_.below(vocab);
    return t.to(test_device());
  }
  Random random_{20255, 7};
};

Operator fast(const at::Tensor& target) {
  return [=](const Tensors& x) { return linear_cross_entropy(x[0], x[1], target).loss; };
}
Operator reference(const at::Tensor& target) {
  return [=](const Tensors& x) { return linear_cross_entropy_reference(x[0], x[1], target).loss; };
}
Operator naive(const at::Tensor& target) {
  return [=](const Tensors& x) { return -at::log_softmax(at::matmul(x[0], x[1].t()), 1).gather(1, target.unsqueeze(1)).squeeze(1); };
}

TEST_F(CrossEntropyTest, ReferenceIsTheDefinition) {
  const at::Tensor h = normal(random_, {4, 3}), e = normal(random_, {6, 3}), target = targets(4, 6);
  const CrossEntropy got = linear_cross_entropy_reference(h, e, target);
  for (int64_t i = 0; i < 4; ++i) {
    double total = 0, best = -1e300;
    int64_t best_at = -1;
    std::vector<double> logit(6);
    for (int64_t v = 0; v < 6; ++v) {
      for (int64_t d = 0; d < 3; ++d) logit[v] += h[i][d].item<double>() * e[v][d].item<double>();
      total += std::exp(logit[v]);
      if (logit[v] > best) best = logit[v], best_at = v;
    }
    const int64_t goal = target[i].item<int64_t>();
    EXPECT_NEAR(got.loss[i].item<double>(), std::log(total) - logit[goal], 1e-12);
    EXPECT_EQ(got.correct[i].item<bool>(), best_at == goal);
  }
  expect_differences(reference(target), {h, e}, normal(random_, {4}), random_, "cross entropy");
}

TEST_F(CrossEntropyTest, ValuesAndGradients) {
  for_each_isa([&](const std::string& isa) {
    for (const auto& [rows, d, vocab] : {std::tuple<int64_t, int64_t, int64_t>{1, 8, 11}, {100, 32, 97}, {700, 16, 1000}, {5, 64, 2}}) {
      const at::Tensor target = targets(rows, vocab);
      const Tensors x = {normal(random_, {rows, d}), normal(random_, {vocab, d})};
      const at::Tensor c = normal(random_, {rows});
      const std::string what = fmt::format("{} {} rows, {} of {}", isa, rows, d, vocab);
      expect_close_fp32(fast(target), reference(target), x, c, what);
      const Tensors rounded = {x[0].to(at::kBFloat16), x[1].to(at::kBFloat16)};
      const CrossEntropy a = linear_cross_entropy(rounded[0], rounded[1], target),
                         b = linear_cross_entropy_reference(rounded[0], rounded[1], target);
      EXPECT_EQ(a.loss.scalar_type(), at::kFloat);
      EXPECT_LE(worst(a.loss, b.loss), 1e-4);
      EXPECT_TRUE(at::equal(a.correct, b.correct));
      // Gradients of a bf16 model by the rule of docs/architecture.md; losses stay fp32, so they are compared above.
      const Tensors wide = {rounded[0].to(at::kDouble), rounded[1].to(at::kDouble)};
      const Outcome got = outcome(fast(target), wide, c, at::kBFloat16), want = outcome(reference(target), wide, c, at::kDouble),
                    rough = outcome(naive(target), wide, c, at::kBFloat16);
      for (size_t i = 0; i < 2; ++i)
        EXPECT_LE(worst(got.grads[i], want.grads[i]), 2 * worst(rough.grads[i], want.grads[i]) + largest(want.grads[i]) / 512)
            << what << " gradient " << i;
    }
  });
}

// Equal logits: the first place counts as the best, on every path.
TEST_F(CrossEntropyTest, Ties) {
  for_each_isa([&](const std::string& isa) {
    for (int64_t vocab : {3, 16, 37, 64}) {
      const at::Tensor e = at::zeros({vocab, 2}, at::kFloat).fill_(1.0), h = at::zeros({2, 2}, at::kFloat).fill_(0.5);
      const at::Tensor target = at::zeros({2}, at::kLong);
      target[1] = vocab - 1;
      const CrossEntropy got = linear_cross_entropy(h.to(test_device()), e.to(test_device()), target.to(test_device()));
      EXPECT_NEAR(got.loss[0].item<double>(), std::log(static_cast<double>(vocab)), 1e-6) << isa;
      EXPECT_TRUE(got.correct[0].item<bool>()) << isa;
      EXPECT_FALSE(got.correct[1].item<bool>()) << isa;
    }
  });
}

// More rows than one block.
TEST_F(CrossEntropyTest, Blocks) {
  const int64_t rows = 150, vocab = 60'000;
  const at::Tensor target = targets(rows, vocab);
  const at::Tensor h = normal(random_, {rows, 4}).to(at::kFloat), e = normal(random_, {vocab, 4}, 0.5).to(at::kFloat);
  const at::Tensor c = normal(random_, {rows}).to(at::kFloat);
  const Outcome got = outcome(fast(target), {h, e}, c, at::kFloat);
  for (int64_t r : {int64_t{0}, int64_t{63}, int64_t{64}, rows - 1}) {
    const Outcome one = outcome(reference(target.narrow(0, r, 1)), {h.narrow(0, r, 1), e}, c.narrow(0, r, 1), at::kDouble);
    EXPECT_LE(worst(got.y.narrow(0, r, 1), one.y), 1e-5 * largest(one.y));
    EXPECT_LE(worst(got.grads[0].narrow(0, r, 1), one.grads[0]), 3e-5 * largest(one.grads[0]));
  }
}

TEST_F(CrossEntropyTest, EmptyAndOnlyOneSide) {
  const at::Tensor e = normal(random_, {7, 4}).to(at::kFloat).requires_grad_(true), none = normal(random_, {0, 4}).to(at::kFloat);
  const CrossEntropy got = linear_cross_entropy(none, e, targets(0, 7));
  EXPECT_EQ(got.loss.numel(), 0);
  EXPECT_EQ(largest(torch::autograd::grad({got.loss.sum()}, {e})[0]), 0.0);
  const at::Tensor h = normal(random_, {9, 4}).to(at::kFloat), target = targets(9, 7);
  const Outcome both = outcome(reference(target), {h, e.detach()}, normal(random_, {9}).fill_(1.0), at::kDouble);
  EXPECT_LE(worst(torch::autograd::grad({linear_cross_entropy(h, e, target).loss.sum()}, {e})[0], both.grads[1]), 1e-5);
}

TEST_F(CrossEntropyTest, RepeatsToTheBit) {
  const at::Tensor target = targets(300, 500);
  const Tensors x = {normal(random_, {300, 32}), normal(random_, {500, 32})};
  for (auto type : {at::kFloat, at::kBFloat16}) expect_repeats(fast(target), x, normal(random_, {300}), type, "cross entropy");
}

}  // namespace
}  // namespace cairn
