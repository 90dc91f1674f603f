#include "cairn/train/optimizer.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "cairn/core/error.h"
#include "cairn/core/random.h"
#include "cairn/core/safetensors.h"
#include "cairn/model/model.h"
#include "train/tiny.h"

namespace cairn {
namespace {

struct Fixture {
  TrainConfig config = testing::tiny_config();
  std::shared_ptr<Parameters> parameters;
  Fixture() {
    parameters = std::make_shared<Parameters>(config.model, at::kCPU);
    parameters->initialize(3);
    parameters->enable_gradients();
  }
  void gradient(uint64_t seed, double scale) {
    Random random(seed, 0);
    at::Tensor g = parameters->flat_gradient();
    float* p = g.data_ptr<float>();
    for (int64_t i = 0; i < g.numel(); ++i) p[i] = static_cast<float>(scale * random.normal());
  }
};

const at::Tensor kLoss = at::full({}, 1.0, at::kFloat);

// AdamW written out in fp64, with decoupled decay on the first decay_count numbers only, and clipping by the global norm.
TEST(Optimizer, IsAdamWWithClipping) {
  Fixture f;
  f.config.train.clip = 1.0;
  Optimizer optimizer(f.parameters, f.config.train);
  const int64_t n = f.parameters->count();
  std::vector<double> w(n), m(n), v(n);
  for (int64_t i = 0; i < n; ++i) w[i] = f.parameters->flat().data_ptr<float>()[i];
  for (int step = 1; step <= 5; ++step) {
    f.gradient(step, step == 3 ? 1e-4 : 0.1);  // clipped, but for the third
    double norm = 0;
    const float* g = f.parameters->flat_gradient().data_ptr<float>();
    for (int64_t i = 0; i < n; ++i) norm += static_cast<double>(g[i]) * g[i];
    norm = std::sqrt(norm);
    const double scale = std::max(1.0, norm / 1.0), lr = 1e-3 * step;
    for (int64_t i = 0; i < n; ++i) {
      const double gi = g[i] / scale;
      if (i < f.parameters->decay_count()) w[i] *= 1 - lr * 0.1;
      m[i] = 0.9 * m[i] + 0.1 * gi;
      v[i] = 0.95 * v[i] + 0.05 * gi * gi;
      w[i] -= lr * (m[i] / (1 - std::pow(0.9, step))) / (std::sqrt(v[i] / (1 - std::pow(0.95, step))) + 1e-8);
    }
    optimizer.step(lr, kLoss);
    EXPECT_NEAR(optimizer.report().norm, norm, 1e-4 * norm);
  }
  const float* got = f.parameters->flat().data_ptr<float>();
  double worst = 0;
  for (int64_t i = 0; i < n; ++i) worst = std::max(worst, std::abs(got[i] - w[i]));
  EXPECT_LT(worst, 2e-6);
  EXPECT_EQ(optimizer.report().accepted, 5);
}

TEST(Optimizer, NonFiniteStepsAreLeftOut) {
  Fixture f;
  Optimizer optimizer(f.parameters, f.config.train);
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  f.gradient(1, 0.1);
  f.parameters->flat_gradient().data_ptr<float>()[17] = nan;  // the very first step: nothing to lean on yet
  const at::Tensor before = f.parameters->flat().clone();
  optimizer.step(1e-3, kLoss);
  EXPECT_TRUE(at::equal(before, f.parameters->flat()));
  f.gradient(1, 0.1);
  optimizer.step(1e-3, kLoss);
  EXPECT_FALSE(at::equal(before, f.parameters->flat()));
  const at::Tensor after = f.parameters->flat().clone();
  f.gradient(2, 0.1);
  f.parameters->flat_gradient().data_ptr<float>()[0] = inf;
  optimizer.step(1e-3, kLoss);
  f.gradient(2, 0.1);
  optimizer.step(1e-3, at::full({}, nan, at::kFloat));  // finite gradient, broken loss
  EXPECT_TRUE(at::equal(after, f.parameters->flat()));
  EXPECT_EQ(optimizer.report().accepted, 1);
  EXPECT_EQ(optimizer.report().skipped, 3);
  EXPECT_EQ(optimizer.report().skipped_in_row, 2);
  f.gradient(2, 0.1);
  optimizer.step(1e-3, kLoss);
  EXPECT_EQ(optimizer.report().skipped_in_row, 0);
  EXPECT_TRUE(std::isfinite(optimizer.report().running_norm));
}

TEST(Optimizer, SpikesAreLeftOutOnceTheRunningNormIsKnown) {
  Fixture f;
  f.config.train.spike_factor = 5;
  Optimizer optimizer(f.parameters, f.config.train);
  f.gradient(0, 10);
  optimizer.step(1e-4, kLoss);  // early steps may be wild
  for (int i = 0; i < 200; ++i) {
    f.gradient(i, 0.1);
    optimizer.step(1e-4, kLoss);
  }
  EXPECT_EQ(optimizer.report().skipped, 0);
  const at::Tensor before = f.parameters->flat().clone();
  const double running = optimizer.report().running_norm;
  f.gradient(1, 50);
  optimizer.step(1e-4, kLoss);
  EXPECT_TRUE(at::equal(before, f.parameters->flat()));
  EXPECT_EQ(optimizer.report().skipped, 1);
  EXPECT_NEAR(optimizer.report().running_norm, 1.08 * running, 1e-6 * running);  // 2 % of the way to the bar, 5 times the running norm
  // A new level that stays is accepted after a while, though it was beyond the bar.
  int64_t left_out = 0;
  for (int i = 0; i < 30 && optimizer.report().skipped > left_out; ++i) {
    left_out = optimizer.report().skipped;
    f.gradient(i, 2.5);
    optimizer.step(1e-4, kLoss);
  }
  EXPECT_GT(left_out, 3);
  EXPECT_LT(left_out, 12);
}

TEST(Optimizer, SaveAndLoadAreExact) {
  Fixture a, b;
  testing::TemporaryFolder folder;
  const fs::path file = folder.path() / "optimizer.safetensors";
  Optimizer one(a.parameters, a.config.train);
  for (int i = 0; i < 3; ++i) {
    a.gradient(i, 0.1);
    one.step(1e-3, kLoss);
  }
  one.save(file);
  Optimizer two(b.parameters, b.config.train);
  two.load(file);
  b.parameters->flat().copy_(a.parameters->flat());
  for (int i = 3; i < 6; ++i) {
    a.gradient(i, 0.1);
    b.gradient(i, 0.1);
    one.step(1e-3, kLoss);
    two.step(1e-3, kLoss);
  }
  EXPECT_TRUE(at::equal(a.parameters->flat(), b.parameters->flat()));
  EXPECT_EQ(one.report().running_norm, two.report().running_norm);

  TrainConfig other = a.config;
  other.model.d_model = 64;
  other.model.mlp_width = 0;
  auto wide = std::make_shared<Parameters>(other.model, at::kCPU);
  wide->enable_gradients();
  Optimizer mismatched(wide, other.train);
  EXPECT_THROW(mismatched.load(file), UserError);
  write_file(file, "nonsense");
  EXPECT_THROW(two.load(file), UserError);
}

// A model that was used without gradients (validation) keeps casts and joins of its weights: after a step it must make them again.
TEST(Optimizer, AModelInUseSeesTheNewWeights) {
  Fixture f;
  Optimizer optimizer(f.parameters, f.config.train);
  const Model model(f.config.model, f.parameters);
  Random random(5, 5);
  const at::Tensor tokens = at::empty({1, 40}, at::kLong);
  for (int64_t i = 0; i < 40; ++i) tokens.data_ptr<int64_t>()[i] = random.below(f.config.model.vocab);
  for (const auto compute : {at::kFloat, at::kBFloat16}) {
    ForwardOptions options;
    options.compute = compute;
    const auto logits = [&](const Model& of) {
      const at::NoGradGuard no_gradient;
      return of.logits(of.forward(tokens, options).hidden);
    };
    const at::Tensor before = logits(model);
    f.gradient(6, 1);
    optimizer.step(1e-2, kLoss);
    const at::Tensor after = logits(model);
    EXPECT_FALSE(at::equal(before, after));
    EXPECT_TRUE(at::equal(after, logits(Model(f.config.model, f.parameters)))) << "stale weights";
  }
}

}  // namespace
}  // namespace cairn
