#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <vector>

#include "cairn/core/random.h"
#include "cairn/model/losses.h"

namespace cairn {
namespace {

// One batch with everything that the loss looks at, drawn at random. fp64.
struct Case {
  int64_t B = 3, L = 24, S = 4, C = 6, r = 5;
  Trace trace;
  at::Tensor source, weight, key;

  explicit Case(Random& random) {
    const auto f64 = at::TensorOptions(at::kDouble);
    trace.landmarks = at::randn({B, C, 1, r}, f64);
    RetrievalTrace retrieval;
    retrieval.query = at::randn({B, L, 1, r}, f64);
    retrieval.score = at::zeros({B, L, 1, C}, f64);
    source = at::full({B, L, 2}, -1, at::kLong);
    weight = at::full({B, L}, 1.0, f64);
    key = at::zeros({B, L}, at::kLong);
    for (int64_t b = 0; b < B; ++b) {
      for (int64_t t = 0; t < L; ++t) {
        for (int64_t c = 0; c < C; ++c) retrieval.score[b][t][0][c] = score(retrieval.query, b, t, b, c);
        if (random.uniform() < 0.5) continue;
        source[b][t][0] = random.below(C);  // often not visible: such rows must not count
        if (random.uniform() < 0.3) source[b][t][1] = random.below(C);
        weight[b][t] = 20.0 * random.uniform();
        key[b][t] = random.below(4);  // 0: none
      }
    }
    trace.retrievals.push_back(std::move(retrieval));
  }

  double score(const at::Tensor& query, int64_t b, int64_t t, int64_t b2, int64_t c) const {
    return (query[b][t][0] * trace.landmarks[b2][c][0]).sum().item<double>() / std::sqrt(static_cast<double>(r));
  }
  int64_t at(const at::Tensor& x, int64_t b, int64_t t) const { return x[b][t].item<int64_t>(); }
  bool visible(int64_t t, int64_t c) const { return t >= (c + 1) * S; }
  // Some row of sequence b asks for `wanted` and names chunk c as a source.
  bool states(int64_t b, int64_t c, int64_t wanted) const {
    for (int64_t t = 0; t < L; ++t) {
      if (at(key, b, t) == wanted && (source[b][t][0].item<int64_t>() == c || source[b][t][1].item<int64_t>() == c)) return true;
    }
    return false;
  }

  // The definition, loop by loop.
  double expected(bool with_keys) const {
    double sum = 0, total = 0;
    for (int64_t b = 0; b < B; ++b) {
      for (int64_t t = 0; t < L; ++t) {
        double found = 0, all = 0;
        for (int64_t c = 0; c < C; ++c) {
          const bool is_source = source[b][t][0].item<int64_t>() == c || source[b][t][1].item<int64_t>() == c;
          if (is_source && visible(t, c)) found += std::exp(score(trace.retrievals[0].query, b, t, b, c));
        }
        if (found == 0) continue;
        for (int64_t b2 = 0; b2 < B; ++b2) {
          for (int64_t c = 0; c < C; ++c) {
            const bool same_key = with_keys && at(key, b, t) != 0 && states(b2, c, at(key, b, t));
            if (b2 == b ? visible(t, c) : !same_key) all += std::exp(score(trace.retrievals[0].query, b, t, b2, c));
          }
        }
        sum += weight[b][t].item<double>() * std::log(all / found);
        total += weight[b][t].item<double>();
      }
    }
    return sum / total;
  }
};

TEST(RouteLoss, IsItsDefinition) {
  for (uint64_t seed = 0; seed < 6; ++seed) {
    Random random(seed, 91);
    at::manual_seed(static_cast<int64_t>(seed));
    const Case c(random);
    const auto world = World::single();
    EXPECT_NEAR(route_loss(c.trace, c.source, c.weight, at::Tensor(), c.S, world).item<double>(), c.expected(false), 1e-9);
    EXPECT_NEAR(route_loss(c.trace, c.source, c.weight, c.key, c.S, world).item<double>(), c.expected(true), 1e-9);
    EXPECT_NE(c.expected(false), c.expected(true));
  }
}

// Told which rows have a visible source, it scores only these: the same loss and gradients.
TEST(RouteLoss, RowsThatAreNamedAreEnough) {
  for (uint64_t seed = 0; seed < 6; ++seed) {
    Random random(seed, 92);
    at::manual_seed(static_cast<int64_t>(seed));
    Case c(random);
    std::vector<int64_t> numbers;
    for (int64_t b = 0; b < c.B; ++b) {
      for (int64_t t = 0; t < c.L; ++t) {
        bool any = false;
        for (int k = 0; k < 2; ++k) {
          const int64_t chunk = c.source[b][t][k].item<int64_t>();
          any = any || (chunk >= 0 && c.visible(t, chunk));
        }
        if (any) numbers.push_back(b * c.L + t);
      }
    }
    ASSERT_FALSE(numbers.empty());
    ASSERT_LT(numbers.size(), static_cast<size_t>(c.B * c.L));
    numbers.resize(numbers.size() + 1 + seed, -1);
    const at::Tensor rows = at::tensor(numbers, at::kLong);
    const auto run = [&](const at::Tensor& which) {
      Trace trace;
      trace.landmarks = c.trace.landmarks.clone().requires_grad_(true);
      trace.retrievals.push_back(c.trace.retrievals[0]);
      RetrievalTrace& r = trace.retrievals[0];
      r.query = r.query.clone().requires_grad_(true);
      r.score = r.score.clone().requires_grad_(true);
      const at::Tensor loss = route_loss(trace, c.source, c.weight, seed % 2 == 0 ? c.key : at::Tensor(), c.S, World::single(), which);
      std::vector<at::Tensor> out = torch::autograd::grad({loss}, {trace.landmarks, r.query, r.score});
      out.push_back(loss.detach());
      return out;
    };
    const auto all = run({}), named = run(rows);
    for (size_t i = 0; i < all.size(); ++i) {
      EXPECT_GT(all[i].abs().max().item<double>(), 1e-6);
      EXPECT_LT((all[i] - named[i]).abs().max().item<double>(), 1e-12) << seed << " " << i;
    }
    const at::Tensor nothing = route_loss(c.trace, c.source, c.weight, c.key, c.S, World::single(), at::full({3}, -1, at::kLong));
    EXPECT_EQ(nothing.item<double>(), 0);
  }
}

TEST(RouteLoss, WithoutKeysNothingIsLeftOut) {
  Random random(7, 91);
  const Case c(random);
  const auto world = World::single();
  const at::Tensor none = at::zeros({c.B, c.L}, at::kLong);
  EXPECT_EQ(route_loss(c.trace, c.source, c.weight, none, c.S, world).item<double>(),
            route_loss(c.trace, c.source, c.weight, at::Tensor(), c.S, world).item<double>());
}

}  // namespace
}  // namespace cairn
