// The sum of gradients over processes while the backward pass runs: the same as one all-reduce behind it.
#include "cairn/train/gradient_sum.h"

#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "cairn/train/setup.h"
#include "cairn/train/step.h"
#include "cairn/train/train_step.h"
#include "dist/processes.h"
#include "train/tiny.h"

namespace cairn {
namespace {

TEST(GradientSum, BucketsCoverTheBufferFromTheEnd) {
  const TrainConfig config = testing::tiny_config();
  const Parameters parameters(config.model, at::kCPU);
  for (const int64_t numbers : {int64_t{1}, int64_t{1000}, int64_t{5000}, int64_t{1} << 40}) {
    const auto buckets = gradient_buckets(parameters, numbers);
    int64_t members = 0, matrices = parameters.decay_count();
    std::vector<int> seen(parameters.count());
    for (const auto& b : buckets) {
      ASSERT_LT(b.begin, b.end);
      for (int64_t i = b.begin; i < b.end; ++i) ++seen[i];
      int64_t inside = 0;
      for (const ParameterInfo& info : parameters.infos()) inside += b.begin <= info.offset && info.offset < b.end;
      EXPECT_EQ(inside, b.members);
      members += b.members;
      if (b.begin < parameters.decay_count()) {
        EXPECT_EQ(b.end, matrices);  // from the last matrix to the first
        matrices = b.begin;
      }
    }
    EXPECT_EQ(seen, std::vector<int>(parameters.count(), 1)) << numbers;
    EXPECT_EQ(members, static_cast<int64_t>(parameters.infos().size()));
    EXPECT_EQ(buckets.back().begin, 0);  // the embedding alone
    EXPECT_EQ(buckets.back().members, 1);
    EXPECT_EQ(buckets.size(), numbers == 1 ? static_cast<size_t>(1 + std::count_if(parameters.infos().begin(), parameters.infos().end(),
                                                                                   [](const auto& info) { return info.decay; }))
                              : numbers > 1'000'000 ? 3U
                                                    : buckets.size());
  }
}

Moment moment_64() {
  Moment moment;
  moment.length = 64;
  moment.top_k = 2;
  moment.beta = 0.5;
  moment.route_weight = 0.3;
  return moment;
}

TEST(GradientSumHelper, SameAsOneAllReduce) {
  if (!testing::in_helper()) GTEST_SKIP() << "runs inside GradientSum.GivesWhatOneAllReduceGives";
  const auto world = World::from_environment();
  TrainConfig config = testing::tiny_config();
  config.train.precision = std::getenv("PRECISION");
  const Materials materials = open_materials(config);
  const auto model = make_model(config, at::kCPU);
  const at::Tensor flat = model->parameters()->flat_gradient();
  const auto batch_of = [&](int64_t number) {
    return make_batch(*materials.tasks, materials.task_names, 1, 4 * (number * world->size() + world->rank()), 4, 64, 8);
  };
  const Moment moment = moment_64();
  for (const int64_t numbers : {int64_t{1}, int64_t{3000}, int64_t{1} << 40}) {
    for (int64_t i = 0; i < 2; ++i) {
      step_gradients(*model, batch_of(i), moment, config, world);
      const at::Tensor behind = flat.clone();
      GradientSum sum(model->parameters(), world, numbers);
      for (int turn = 0; turn < 2; ++turn) {  // the same again: nothing is left over
        step_gradients(*model, batch_of(i), moment, config, world, &sum);
        EXPECT_TRUE(flat.equal(behind)) << numbers << " " << (flat - behind).abs().max().item<double>();
      }
      EXPECT_GT(behind.abs().max().item<double>(), 1e-4);
    }
  }
  // Accumulation: two backward passes, of which the last sends.
  const auto pass = [&](int64_t i) { return step_losses(*model, batch_of(i), moment, at::kFloat, 0, world).total; };
  model->parameters()->zero_gradients();
  pass(0).backward();
  pass(1).backward();
  at::Tensor both = flat.clone();
  world->all_reduce_sum(both);
  GradientSum sum(model->parameters(), world, 3000);
  model->parameters()->zero_gradients();
  pass(0).backward();
  const at::Tensor last = pass(1);
  sum.begin();
  last.backward();
  sum.finish();
  EXPECT_TRUE(flat.equal(both)) << (flat - both).abs().max().item<double>();
}

// In bf16 gradients of matrices do not come through autograd's own sums (TrainingCast).
TEST(GradientSum, GivesWhatOneAllReduceGives) {
  for (const char* precision : {"fp32", "bf16"})
    EXPECT_TRUE(testing::run_world("GradientSumHelper.SameAsOneAllReduce", 2, {{"PRECISION", precision}})) << precision;
}

// Parameters that a pass leaves without a gradient (here: everything but the embedding, or nothing at all) are sent all the same.
TEST(GradientSumHelper, MissingGradients) {
  if (!testing::in_helper()) GTEST_SKIP() << "runs inside GradientSum.WhatHasNoGradientIsSummedToo";
  const auto world = World::from_environment();
  const auto model = make_model(testing::tiny_config(), at::kCPU);
  Parameters& parameters = *model->parameters();
  GradientSum sum(model->parameters(), world, 3000);
  at::Tensor flat = parameters.flat_gradient();
  flat.fill_(static_cast<double>(world->rank() + 1));
  sum.begin();
  (parameters["embed.weight"].sum() * 10.0).backward();
  sum.finish();
  const int64_t embedding = parameters["embed.weight"].numel();
  EXPECT_TRUE(flat.narrow(0, 0, embedding).eq(23).all().item<bool>());
  EXPECT_TRUE(flat.narrow(0, embedding, flat.numel() - embedding).eq(3).all().item<bool>());
  sum.begin();
  sum.finish();
  EXPECT_TRUE(flat.narrow(0, 0, embedding).eq(46).all().item<bool>());
}

TEST(GradientSum, WhatHasNoGradientIsSummedToo) { EXPECT_TRUE(testing::run_world("GradientSumHelper.MissingGradients", 2)); }

TEST(GradientSum, HooksGoWithIt) {
  const auto model = make_model(testing::tiny_config(), at::kCPU);
  {
    GradientSum sum(model->parameters(), World::single(), 3000);
    sum.begin();
    (*model->parameters())["embed.weight"].sum().backward();
    sum.finish();
  }
  (*model->parameters())["embed.weight"].sum().backward();
  EXPECT_EQ(model->parameters()->flat_gradient()[0].item<double>(), 2);
}

// On a CPU TrainStep is step_gradients and the optimizer, whatever changes from step to step.
TEST(TrainStep, IsGradientsAndOptimizer) {
  const TrainConfig config = testing::tiny_config();
  const Materials materials = open_materials(config);
  const auto one = make_model(config, at::kCPU), other = make_model(config, at::kCPU);
  Optimizer a(one->parameters(), config.train), b(other->parameters(), config.train);
  TrainStep steps(other, &b, config, World::single(), at::kCPU);
  Moment moment = moment_64();
  for (int64_t i = 0; i < 6; ++i) {
    moment.lr = 1e-3 * static_cast<double>(i + 1);
    moment.length = i < 4 ? 64 : 128;
    const Batch batch = make_batch(*materials.tasks, materials.task_names, 1, 4 * i, 4, moment.length, 8);
    const StepLosses losses = step_gradients(*one, batch, moment, config, World::single());
    a.step(moment.lr, global_loss(losses, *World::single()));
    EXPECT_EQ(steps.run(batch, moment).total.item<double>(), losses.total.item<double>());
    EXPECT_FALSE(steps.recorded());
    EXPECT_FALSE(losses.total.requires_grad());
  }
  EXPECT_TRUE(one->parameters()->flat().equal(other->parameters()->flat()));
}

}  // namespace
}  // namespace cairn
