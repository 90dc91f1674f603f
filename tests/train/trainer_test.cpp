#include "cairn/train/trainer.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "cairn/core/error.h"
#include "cairn/core/progress.h"
#include "cairn/model/model.h"
#include "cairn/train/checkpoint.h"
#include "cairn/train/estimate.h"
#include "cairn/train/rehearsal.h"
#include "cairn/train/setup.h"
#include "cairn/train/step.h"
#include "dist/processes.h"
#include "train/tiny.h"

namespace cairn {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TrainRun quiet_run(const fs::path& folder) {
  TrainRun run;
  run.folder = folder;
  run.quiet = true;
  return run;
}

std::vector<nlohmann::json> lines_of(const fs::path& folder, const std::string& kind) {
  std::vector<nlohmann::json> lines;
  std::istringstream text(read_file(folder / "metrics.jsonl"));
  for (std::string line; std::getline(text, line);) {
    auto json = nlohmann::json::parse(line);
    if (json["kind"] == kind) lines.push_back(json);
  }
  return lines;
}

// The curve without what a clock measures.
std::string curve(const fs::path& folder) {
  std::string result;
  for (auto json : lines_of(folder, "step")) {
    json.erase("seconds");
    json.erase("tokens_per_second");
    result += json.dump() + "\n";
  }
  return result;
}

std::string weights(const fs::path& folder) { return read_file(folder / "model" / "model.safetensors"); }

template <typename Work>
std::string user_error(Work work) {
  try {
    work();
  } catch (const UserError& error) {
    return error.what();
  }
  return "(no UserError)";
}

TEST(Trainer, ResumesBitEqualTwiceForAnyNumberOfDataThreads) {
  TrainConfig config = testing::tiny_config();
  config.train.gates = {0.3};  // a gate that opens by its bound keeps state, too
  config.train.gate_tokens = 3 * 512;
  config.train.gate_bound = "go_on";
  testing::TemporaryFolder whole;
  const TrainResult straight = train(config, quiet_run(whole.path()));
  EXPECT_EQ(straight.ended, "finished");
  EXPECT_GT(straight.steps, 24);  // the wait came on top
  const std::string expected = curve(whole.path());
  EXPECT_GT(lines_of(whole.path(), "step").size(), 10U);
  EXPECT_EQ(lines_of(whole.path(), "phase").size(), 2U);
  EXPECT_EQ(lines_of(whole.path(), "gate").size(), 1U);

  for (const int64_t threads : {1, 2}) {
    config.train.data_threads = threads;
    testing::TemporaryFolder pieces;
    TrainRun run = quiet_run(pieces.path());
    run.stop_after = 7;
    EXPECT_EQ(train(config, run).ended, "stopped");
    run.resume = true;
    run.stop_after = 15;
    EXPECT_EQ(train(config, run).steps, 15);
    run.stop_after = 0;
    const TrainResult end = train(config, run);
    EXPECT_EQ(end.steps, straight.steps);
    EXPECT_EQ(end.tokens, straight.tokens);
    EXPECT_EQ(curve(pieces.path()), expected) << threads;
    EXPECT_EQ(weights(pieces.path()), weights(whole.path())) << threads;
    EXPECT_EQ(lines_of(pieces.path(), "start").size(), 3U);
  }
}

// A run that was killed after its last checkpoint leaves lines behind it; going on writes them anew, not twice.
TEST(Trainer, LogGoesBackToTheCheckpoint) {
  TrainConfig config = testing::tiny_config();
  testing::TemporaryFolder whole, killed;
  train(config, quiet_run(whole.path()));
  TrainRun run = quiet_run(killed.path());
  run.stop_after = 10;
  train(config, run);
  const std::string at_ten = read_file(killed.path() / "metrics.jsonl");
  write_file(killed.path() / "metrics.jsonl", at_ten + "{\"kind\":\"step\",\"step\":12}\n{\"kind\":\"st");
  run.resume = true;
  run.stop_after = 0;
  train(config, run);
  EXPECT_EQ(curve(killed.path()), curve(whole.path()));
}

TEST(Trainer, LossFallsAndTheModelFolderIsComplete) {
  TrainConfig config = testing::tiny_config();
  config.train.tokens = 512 * 240;
  config.train.precision = "bf16";
  testing::TemporaryFolder folder;
  const TrainResult result = train(config, quiet_run(folder.path()));
  const auto steps = lines_of(folder.path(), "step");
  EXPECT_LT(steps.back()["cross_entropy"].get<double>(), 0.85 * steps.front()["cross_entropy"].get<double>());
  EXPECT_EQ(result.loss, steps.back()["loss"].get<double>());
  EXPECT_EQ(steps.back()["recall"].size(), 1U);
  EXPECT_TRUE(steps.back()["skill"].contains("word_pairs"));
  EXPECT_DOUBLE_EQ(steps.back()["beta"].get<double>(), 0);
  EXPECT_EQ(load_model(result.model, at::kCPU).config.d_model, 32);
  const auto start = lines_of(folder.path(), "start").front();
  EXPECT_EQ(start["config"]["train"]["precision"], "bf16");
  EXPECT_EQ(start["environment"]["device"], "cpu");
  EXPECT_EQ(lines_of(folder.path(), "end").front()["reason"], "finished");
}

TEST(Trainer, ValidationIsTakenOnHeldOutText) {
  TrainConfig config = testing::tiny_config();
  config.model.vocab = 320;
  config.data.tokenizer = "bytes";
  config.data.train = {"prose:1"};
  config.data.validation = "prose:2";
  config.tasks.mix = {"text:1"};
  config.train.validate_every = 10;
  config.train.validation_tokens = 1024;
  testing::TemporaryFolder folder;
  train(config, quiet_run(folder.path()));
  const auto seen = lines_of(folder.path(), "validation");
  ASSERT_EQ(seen.size(), 3U);  // steps 10, 20 and the end
  EXPECT_LT(seen.back()["loss"].get<double>(), seen.front()["loss"].get<double>());
  EXPECT_LT(seen.back()["loss"].get<double>(), 5.5);
  EXPECT_TRUE(lines_of(folder.path(), "step").back()["skill"].contains("text"));
}

TEST(Trainer, GateInVainStopsWithADiagnosis) {
  TrainConfig config = testing::tiny_config();
  config.train.gates = {0.25};
  config.train.gate_tokens = 2048;
  testing::TemporaryFolder folder;
  const TrainResult result = train(config, quiet_run(folder.path()));
  EXPECT_EQ(result.ended, "no skill at a gate");
  EXPECT_FALSE(result.good());
  EXPECT_THAT(result.diagnosis, HasSubstr("word_pairs"));
  EXPECT_EQ(lines_of(folder.path(), "gate").front()["event"], "failed");
  EXPECT_TRUE(latest_checkpoint(folder.path()));
}

TEST(Trainer, DivergenceEndsTheRun) {
  TrainConfig config = testing::tiny_config();
  config.train.lr = 10;
  config.train.warmup_steps = 0;
  config.train.clip = 0;
  config.train.epsilon = 0;
  config.train.tokens = 512 * 400;
  config.train.spike_limit = 2;
  config.train.spike_factor = 1e-6;  // whatever comes after the guard has settled counts as a spike
  testing::TemporaryFolder folder;
  const TrainResult result = train(config, quiet_run(folder.path()));
  EXPECT_EQ(result.ended, "diverged");
  EXPECT_THAT(result.diagnosis, HasSubstr("train.lr"));
  EXPECT_FALSE(lines_of(folder.path(), "spike").empty());
}

TEST(Trainer, FolderInUseOrWithARunIsRefused) {
  const TrainConfig config = testing::tiny_config();
  testing::TemporaryFolder folder;
  {
    const FolderLock lock(folder.path());
    EXPECT_THAT(user_error([&] { train(config, quiet_run(folder.path())); }), HasSubstr(folder.path().string()));
  }
  TrainRun run = quiet_run(folder.path());
  run.resume = true;  // nothing there yet: begins
  run.stop_after = 2;
  EXPECT_EQ(train(config, run).steps, 2);
  EXPECT_THAT(user_error([&] { train(config, quiet_run(folder.path())); }), HasSubstr("--resume"));
  TrainConfig other = config;
  other.train.lr = 1e-4;
  other.train.log_every = 1;  // may change
  EXPECT_THAT(user_error([&] { train(other, run); }), AllOf(HasSubstr("/train/lr"), ::testing::Not(HasSubstr("log_every"))));
}

TEST(Trainer, WhatDoesNotFitIsRefusedBeforeWork) {
  TrainConfig config = testing::tiny_config();
  config.model.d_model = 4096;
  config.model.heads = config.model.kv_heads = 64;
  config.model.head_dim = 64;
  config.model.mlp_width = 16384;
  config.train.batch_tokens = 1 << 26;
  testing::TemporaryFolder folder;
  const fs::path run = folder.path() / "run";
  try {
    train(config, quiet_run(run));
    FAIL();
  } catch (const ResourceError& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("train.batch_tokens"), HasSubstr("free")));
  }
  EXPECT_FALSE(fs::exists(run));
}

TEST(Trainer, MistakesInDataAreNamed) {
  const auto with = [](auto change) {
    TrainConfig config = testing::tiny_config();
    change(config);
    testing::TemporaryFolder folder;
    return user_error([&] { train(config, quiet_run(folder.path())); });
  };
  EXPECT_THAT(with([](auto& c) { c.model.vocab = 100; }), HasSubstr("model.vocab = 100"));
  EXPECT_THAT(with([](auto& c) { c.data.tokenizer = "/no/such/file"; }), HasSubstr("/no/such/file"));
  EXPECT_THAT(with([](auto& c) { c.data.train = {"/no/such.shard"}; }), HasSubstr("/no/such.shard"));
  EXPECT_THAT(with([](auto& c) { c.tasks.mix = {"wordpairs:1"}; }), HasSubstr("wordpairs"));
  EXPECT_THAT(user_error([] { open_device("gpu"); }), HasSubstr("cpu and cuda"));
}

TEST(Rehearsal, OneBatchCanBeLearned) {
  TrainConfig config = testing::tiny_config();
  config.train.lr = 1e-2;
  const Overfit seen = overfit_one_batch(config, TrainRun());
  EXPECT_TRUE(seen.good()) << seen.first_loss << " -> " << seen.last_loss << " in " << seen.steps;
  config.train.lr = 1e-6;
  EXPECT_FALSE(overfit_one_batch(config, TrainRun(), 20).good());
}

TEST(Rehearsal, DryRunTellsNumbers) {
  ::testing::internal::CaptureStdout();
  dry_run(testing::tiny_config(), TrainRun());
  const std::string text = ::testing::internal::GetCapturedStdout();
  for (const char* word : {"parameters", "memory", "tokens", "phase", "time", "Nothing was trained"}) EXPECT_THAT(text, HasSubstr(word));
}

TEST(TrainerHelper, TrainUntilStopped) {
  if (!testing::in_helper()) GTEST_SKIP() << "runs inside Trainer.SignalSavesAndEnds";
  TrainConfig config = testing::tiny_config();
  config.train.tokens = int64_t{512} * 1'000'000;
  EXPECT_EQ(train(config, quiet_run(std::getenv("RUN_FOLDER"))).ended, "stopped");
}

TEST(Trainer, SignalSavesAndEnds) {
  for (const int signal : {SIGTERM, SIGINT}) {
    testing::TemporaryFolder folder;
    const pid_t pid = testing::start_helper("TrainerHelper.TrainUntilStopped", {{"RUN_FOLDER", folder.path().string()}});
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (std::chrono::steady_clock::now() < deadline) {
      if (fs::exists(folder.path() / "metrics.jsonl") && !lines_of(folder.path(), "step").empty()) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    kill(pid, signal);
    EXPECT_EQ(testing::wait_helper(pid), 0);
    const auto end = lines_of(folder.path(), "end");
    ASSERT_EQ(end.size(), 1U);
    EXPECT_EQ(end[0]["reason"], "stopped");
    EXPECT_EQ(latest_checkpoint(folder.path())->filename().string(), fmt::format("step-{:08d}", end[0]["step"].get<int64_t>()));
  }
}

// Two processes with half of the batch each have the gradients of one with the whole, route loss against all sequences included.
TEST(TrainerHelper, GradientsOfTwo) {
  if (!testing::in_helper()) GTEST_SKIP() << "runs inside Trainer.TwoProcessesHaveTheGradientsOfOne";
  const auto world = World::from_environment();
  TrainConfig config = testing::tiny_config();
  config.model.alpha = 0.5;
  const Materials materials = open_materials(config);
  const auto model = make_model(config, at::kCPU);
  Moment moment;
  moment.length = 64;
  moment.alpha = 0.5;
  moment.beta = 0.5;
  moment.top_k = Phase::kAllChunks;
  moment.route_weight = 0.3;
  moment.distillation_weight = 0.1;
  const auto gradient_of = [&](const Batch& batch, const std::shared_ptr<World>& w) {
    step_gradients(*model, batch, moment, config, w);
    return model->parameters()->flat_gradient().clone();
  };
  const Batch whole = make_batch(*materials.tasks, materials.task_names, 1, 0, 8, 64, 8);
  const Batch part = make_batch(*materials.tasks, materials.task_names, 1, 4 * world->rank(), 4, 64, 8);
  const at::Tensor one = gradient_of(whole, World::single()), two = gradient_of(part, world);
  EXPECT_GT(one.abs().max().item<double>(), 1e-3);
  EXPECT_LT((one - two).abs().max().item<double>(), 1e-5);

  // Chunks chosen with noise: the noise is that of the sample, whichever process has it.
  Moment chosen = moment;
  chosen.top_k = 2;
  chosen.alpha = 0;
  chosen.distillation_weight = 0;
  const auto chosen_gradient = [&](const Batch& batch, const std::shared_ptr<World>& w) {
    step_gradients(*model, batch, chosen, config, w);
    return model->parameters()->flat_gradient().clone();
  };
  ASSERT_TRUE(config.train.gumbel);
  const at::Tensor noisy = chosen_gradient(whole, World::single());
  EXPECT_LT((noisy - chosen_gradient(part, world)).abs().max().item<double>(), 1e-5);
  Batch renumbered = part;
  renumbered.first += 100;
  EXPECT_GT((noisy - chosen_gradient(renumbered, world)).abs().max().item<double>(), 1e-4);

  const Measurement a = measure(step_losses(*model, whole, moment, at::kFloat, 0, World::single()), whole, materials.task_names,
                                config.model, *World::single());
  const Measurement b = measure(step_losses(*model, part, moment, at::kFloat, 0, world), part, materials.task_names, config.model, *world);
  EXPECT_NEAR(a.loss, b.loss, 1e-5);
  EXPECT_NEAR(a.route, b.route, 1e-5);
  EXPECT_NEAR(a.distillation, b.distillation, 1e-5);
  EXPECT_NEAR(a.skill.at("word_pairs"), b.skill.at("word_pairs"), 1e-9);
  EXPECT_NEAR(a.recall.at(0)[0], b.recall.at(0)[0], 1e-6);
  EXPECT_NEAR(a.loss_by_task.at("word_pairs"), b.loss_by_task.at("word_pairs"), 1e-5);
}

TEST(Trainer, TwoProcessesHaveTheGradientsOfOne) { EXPECT_TRUE(testing::run_world("TrainerHelper.GradientsOfTwo", 2)); }

TrainConfig shared_run_config() {
  TrainConfig config = testing::tiny_config();
  config.train.tokens = 512 * 10;
  return config;
}

// Goes on in RUN_FOLDER until step STOP_AFTER (0: the end).
void run_part(const std::shared_ptr<World>& world, const fs::path& folder, int64_t stop_after) {
  TrainRun run = quiet_run(folder);
  run.world = world;
  run.resume = true;
  run.stop_after = stop_after;
  EXPECT_EQ(train(shared_run_config(), run).ended, stop_after > 0 ? "stopped" : "finished");
}

TEST(TrainerHelper, PartOfRun) {
  if (!testing::in_helper()) GTEST_SKIP() << "runs inside Trainer.RunOfTwoProcesses";
  run_part(World::from_environment(), std::getenv("RUN_FOLDER"), std::atoll(std::getenv("STOP_AFTER")));
}

bool run_part_of_two(const fs::path& folder, int64_t stop_after) {
  return testing::run_world("TrainerHelper.PartOfRun", 2, {{"RUN_FOLDER", folder.string()}, {"STOP_AFTER", std::to_string(stop_after)}});
}

void expect_same_run(const fs::path& one, const fs::path& other) {
  const auto a = load_model(one / "model", at::kCPU), b = load_model(other / "model", at::kCPU);
  EXPECT_LT((a.parameters->flat() - b.parameters->flat()).abs().max().item<double>(), 2e-3);  // Adam's early steps magnify rounding
  const auto first = lines_of(one, "step"), second = lines_of(other, "step");
  ASSERT_EQ(first.size(), second.size());
  for (size_t i = 0; i < first.size(); ++i) {
    EXPECT_EQ(first[i]["step"], second[i]["step"]);
    EXPECT_NEAR(first[i]["loss"].get<double>(), second[i]["loss"].get<double>(), 1e-3) << "line " << i;
    EXPECT_NEAR(first[i]["grad_norm"].get<double>(), second[i]["grad_norm"].get<double>(), 1e-2) << "line " << i;
  }
}

// One process, two, one that goes on where two stopped, two that go on where one stopped: the same losses and the same weights.
TEST(Trainer, RunOfTwoProcesses) {
  testing::TemporaryFolder one, two, two_one, one_two;
  train(shared_run_config(), quiet_run(one.path()));
  ASSERT_TRUE(run_part_of_two(two.path(), 6));
  ASSERT_TRUE(run_part_of_two(two.path(), 0));
  expect_same_run(one.path(), two.path());
  ASSERT_TRUE(run_part_of_two(two_one.path(), 6));
  run_part(World::single(), two_one.path(), 0);
  expect_same_run(one.path(), two_one.path());
  run_part(World::single(), one_two.path(), 6);
  ASSERT_TRUE(run_part_of_two(one_two.path(), 0));
  expect_same_run(one.path(), one_two.path());
}

}  // namespace
}  // namespace cairn
