// Whole training steps on a GPU as recorded work (train/train_step.h): the same numbers as kernel by kernel.
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <vector>

#include "cairn/ops/cuda/kernels.h"
#include "cairn/train/batch.h"
#include "cairn/train/setup.h"
#include "cairn/train/train_step.h"
#include "train/tiny.h"

namespace cairn {
namespace {

// What the kernels take: bf16, heads of 64.
TrainConfig kernel_config() {
  TrainConfig c = testing::tiny_config();
  c.model.d_model = 128;
  c.model.heads = c.model.kv_heads = 2;
  c.model.head_dim = 64;
  c.model.mlp_width = 192;
  c.model.window = 17;
  c.model.chunk = 16;
  c.model.memory_heads = 4;
  c.model.retrieval_dim = 64;
  c.model.alpha = c.model.beta = 0;
  c.train.precision = "bf16";
  c.train.batch_tokens = 2048;
  c.train.beta_ramp = {};
  c.train.phases = {"128:all:0.5", "256:4:1"};
  return c;
}

struct Course {
  std::vector<double> losses, answers;  // total of each step; right answers
  at::Tensor weights;
  int64_t recordings = 0;
  std::string obstacle;
  Optimizer::Report report;
};

// Steps of both phases, each with its own batch and learning rate; then back to the first.
Course course(const TrainConfig& config, bool plain, int64_t steps, bool ramp = false, double alpha = 0) {
  if (plain) setenv("CAIRN_PLAIN_STEPS", "1", 1);
  const at::Device device = open_device("cuda");
  const Materials materials = open_materials(config);
  const auto model = make_model(config, device);
  Optimizer optimizer(model->parameters(), config.train);
  Course result;
  {
    TrainStep runner(model, &optimizer, config, World::single(), device);
    int64_t first = 0;
    for (int64_t i = 0; i < 3 * steps; ++i) {
      const Phase phase = config.phases()[i / steps % 2];
      Moment moment;
      moment.length = phase.length;
      moment.top_k = phase.top_k;
      moment.route_weight = 0.2;
      moment.alpha = alpha;
      moment.distillation_weight = 0.1 * alpha;
      moment.beta = ramp ? 1.0 / static_cast<double>(i + 2) : 0;
      moment.lr = 1e-3 * static_cast<double>(1 + i % 4);
      const int64_t sequences = config.train.batch_tokens / phase.length;
      const Batch batch = make_batch(*materials.tasks, materials.task_names, 7, first, sequences, phase.length, config.model.chunk,
                                     /*pinned=*/i % 3 != 2);
      first += sequences;
      const StepLosses& losses = runner.run(i % 5 == 4 ? batch.to(device) : batch, moment);
      result.losses.push_back(losses.total.item<double>());
      const Measurement m = measure(losses, runner.batch(), materials.task_names, config.model, *World::single());
      result.answers.push_back(m.skill.begin()->second);
    }
    result.recordings = runner.recordings();
    result.obstacle = runner.obstacle();
  }
  result.weights = model->parameters()->flat().cpu();
  result.report = optimizer.report();
  unsetenv("CAIRN_PLAIN_STEPS");
  return result;
}

class CudaTrainStep : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!at::globalContext().hasCUDA()) GTEST_SKIP() << "no GPU here";
    if (cuda_kernels() == nullptr || cuda_kernels()->record == nullptr) GTEST_SKIP() << "built without CUDA";
    before_ = at::globalContext().deterministicAlgorithms();
    at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/true);
    at::globalContext().setDeterministicFillUninitializedMemory(false);
  }
  void TearDown() override { at::globalContext().setDeterministicAlgorithms(before_, /*warn_only=*/false); }
  bool before_ = false;
};

TEST_F(CudaTrainStep, RecordedStepsGiveTheSameBits) {
  const TrainConfig config = kernel_config();
  const Course plain = course(config, true, 8), again = course(config, true, 8), recorded = course(config, false, 8);
  ASSERT_EQ(recorded.obstacle, "");
  EXPECT_EQ(plain.recordings, 0);
  EXPECT_EQ(recorded.recordings, 3);  // another length or top_k is another recording
  ASSERT_EQ(plain.losses, again.losses) << "steps are not deterministic, so nothing can be said";
  EXPECT_EQ(plain.losses, recorded.losses);
  EXPECT_EQ(plain.answers, recorded.answers);
  EXPECT_TRUE(plain.weights.equal(recorded.weights)) << (plain.weights - recorded.weights).abs().max().item<double>();
  EXPECT_EQ(plain.report.accepted, recorded.report.accepted);
  EXPECT_EQ(plain.report.norm, recorded.report.norm);
  EXPECT_EQ(plain.report.running_norm, recorded.report.running_norm);
  EXPECT_GT((plain.weights - course(config, false, 7).weights).abs().max().item<double>(), 0);
}

// The exact-mass warm-up while alpha stays the same: all chunks, whose masses the weights' own pass gives, then chosen ones, whose masses
// need a pass of their own.
TEST_F(CudaTrainStep, RecordedStepsOfTheWarmUpGiveTheSameBits) {
  const TrainConfig config = kernel_config();
  for (const double alpha : {1.0, 0.5}) {
    const Course plain = course(config, true, 5, false, alpha), recorded = course(config, false, 5, false, alpha);
    ASSERT_EQ(recorded.obstacle, "");
    EXPECT_EQ(plain.recordings, 0);
    EXPECT_EQ(recorded.recordings, 3);
    EXPECT_EQ(plain.losses, recorded.losses) << alpha;
    EXPECT_TRUE(plain.weights.equal(recorded.weights)) << (plain.weights - recorded.weights).abs().max().item<double>();
    EXPECT_NE(plain.losses, course(config, true, 5).losses) << "alpha must matter";
  }
}

// Noise, learning rate and batch really come from the device: a recording of other numbers would give other losses.
TEST_F(CudaTrainStep, LossesOfRecordedStepsDiffer) {
  const Course recorded = course(kernel_config(), false, 8);
  for (size_t i = 1; i < recorded.losses.size(); ++i) EXPECT_NE(recorded.losses[i], recorded.losses[i - 1]) << i;
}

TEST_F(CudaTrainStep, WhatChangesFromStepToStepIsNotRecorded) {
  const TrainConfig config = kernel_config();
  const Course ramp = course(config, false, 5, /*ramp=*/true), plain = course(config, true, 5, /*ramp=*/true);
  EXPECT_EQ(ramp.recordings, 0);
  EXPECT_EQ(ramp.losses, plain.losses);
}

TEST_F(CudaTrainStep, OtherPrecisionsAreQueuedKernelByKernel) {
  TrainConfig config = kernel_config();
  config.train.precision = "fp32";
  const Course fp32 = course(config, false, 4);
  EXPECT_EQ(fp32.recordings, 0);
  EXPECT_EQ(fp32.obstacle, "");
  EXPECT_LT(fp32.losses.back(), fp32.losses.front());
}

}  // namespace
}  // namespace cairn
