#include "cairn/train/checkpoint.h"

#include <ATen/ops/equal.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <chrono>
#include <csignal>
#include <thread>

#include "cairn/core/error.h"
#include "cairn/model/model.h"
#include "cairn/tasks/task_set.h"
#include "dist/processes.h"
#include "train/tiny.h"

namespace cairn {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// A network whose every weight is the number of the step, so that a mixture of two saves would show.
struct Fixture {
  TrainConfig config = testing::tiny_config();
  std::shared_ptr<Parameters> parameters;
  std::unique_ptr<Optimizer> optimizer;
  std::shared_ptr<const Tokenizer> tokenizer = make_word_pairs_tokenizer();
  Fixture() {
    parameters = std::make_shared<Parameters>(config.model, at::kCPU);
    parameters->initialize(1);
    parameters->enable_gradients();
    optimizer = std::make_unique<Optimizer>(parameters, config.train);
  }
  fs::path save(const fs::path& run, int64_t step) {
    parameters->flat().fill_(static_cast<double>(step));
    RunState state;
    state.step = step;
    state.tokens = 512 * step;
    state.seconds = 0.1 * static_cast<double>(step);
    state.schedule = "{\"clock\":0.1}";
    state.metrics = {3 * step, 7 * step};
    return save_checkpoint(run, state, config.model, *parameters, *optimizer, *tokenizer);
  }
  // The step of the newest checkpoint after checking that all of it is of that step.
  int64_t check_latest(const fs::path& run) {
    const auto folder = latest_checkpoint(run);
    if (!folder) return -1;
    const RunState state = load_checkpoint(*folder, *parameters, *optimizer);
    EXPECT_EQ(folder->filename().string(), fmt::format("step-{:08d}", state.step));
    EXPECT_EQ(parameters->operator[]("embed.weight").detach().min().item<double>(), static_cast<double>(state.step));
    EXPECT_EQ(parameters->operator[]("norm.weight").detach().max().item<double>(), static_cast<double>(state.step));
    EXPECT_EQ(state.metrics.events, 7 * state.step);
    return state.step;
  }
};

TEST(Checkpoint, IsAModelFolderAndComesBackExactly) {
  Fixture f;
  testing::TemporaryFolder run;
  EXPECT_EQ(latest_checkpoint(run.path()), std::nullopt);
  f.save(run.path(), 41);
  f.save(run.path(), 100);
  EXPECT_EQ(f.check_latest(run.path()), 100);
  const LoadedModel model = load_model(run.path() / "model", at::kCPU);
  EXPECT_EQ(model.config.to_json(), f.config.model.to_json());
  EXPECT_EQ((*model.parameters)["embed.weight"].max().item<double>(), 100);
  EXPECT_EQ(load_tokenizer(model.tokenizer_file)->fingerprint(), f.tokenizer->fingerprint());
}

TEST(Checkpoint, PruningKeepsTheNewestAndTheMilestones) {
  Fixture f;
  testing::TemporaryFolder run;
  for (int64_t step : {10, 15, 20, 25, 30, 100000000}) f.save(run.path(), step);
  prune_checkpoints(run.path(), 2, 20);
  std::vector<std::string> left;
  for (const auto& entry : fs::directory_iterator(run.path() / "checkpoints")) left.push_back(entry.path().filename());
  EXPECT_THAT(left, ::testing::UnorderedElementsAre("step-00000020", "step-00000030", "step-100000000"));
  prune_checkpoints(run.path(), 0, 0);  // never the last one
  EXPECT_EQ(f.check_latest(run.path()), 100000000);
}

TEST(Checkpoint, BrokenFilesAreUserErrors) {
  Fixture f;
  testing::TemporaryFolder run;
  const auto broken = [&](const char* name, const std::string& content) {
    const fs::path folder = f.save(run.path(), 1);
    write_file(folder / name, content);
    EXPECT_THROW(load_checkpoint(folder, *f.parameters, *f.optimizer), UserError) << name << ": " << content;
  };
  broken("state.json", "");
  broken("state.json", "[1,2");
  broken("state.json", "{\"version\":1}");
  broken("state.json", "{\"version\":2,\"step\":1,\"tokens\":1,\"seconds\":1,\"schedule\":{},\"metrics_bytes\":0,\"events_bytes\":0}");
  broken("state.json", "{\"version\":1,\"step\":-1,\"tokens\":1,\"seconds\":1,\"schedule\":{},\"metrics_bytes\":0,\"events_bytes\":0}");
  broken("state.json", "{\"version\":1,\"step\":\"1\",\"tokens\":1,\"seconds\":1,\"schedule\":{},\"metrics_bytes\":0,\"events_bytes\":0}");
  broken("model.safetensors", "");
  broken("optimizer.safetensors", std::string(100, '\xff'));
  const fs::path folder = f.save(run.path(), 1);
  const std::string weights = read_file(folder / "model.safetensors");
  broken("model.safetensors", weights.substr(0, weights.size() - 1));
  fs::remove(f.save(run.path(), 1) / "optimizer.safetensors");
  EXPECT_THROW(load_checkpoint(folder, *f.parameters, *f.optimizer), UserError);
}

// Files may not grow beyond a limit, as on a full disk; in a process of its own, for the limit cannot be taken back.
TEST(CheckpointHelper, FullDisk) {
  if (!testing::in_helper()) GTEST_SKIP() << "runs inside Checkpoint.FullDiskLeavesTheOldOne";
  Fixture f;
  const fs::path run = std::getenv("RUN_FOLDER");
  f.save(run, 1);
  std::signal(SIGXFSZ, SIG_IGN);
  const rlimit limit{20'000, 20'000};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  try {
    f.save(run, 2);
    FAIL() << "saved beyond the limit";
  } catch (const ResourceError& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("checkpoint of step 2"), HasSubstr("step-00000001"), HasSubstr("--resume")));
    EXPECT_EQ(error.exit_code(), 3);
  }
  EXPECT_FALSE(fs::exists(run / "checkpoints" / ".writing"));
}

TEST(Checkpoint, FullDiskLeavesTheOldOne) {
  testing::TemporaryFolder run;
  EXPECT_EQ(testing::wait_helper(testing::start_helper("CheckpointHelper.FullDisk", {{"RUN_FOLDER", run.path().string()}})), 0);
  Fixture f;
  EXPECT_EQ(f.check_latest(run.path()), 1);
  EXPECT_NO_THROW(load_model(run.path() / "model", at::kCPU));
}

TEST(CheckpointHelper, SaveForEver) {
  if (!testing::in_helper()) GTEST_SKIP() << "runs inside Checkpoint.SurvivesKill";
  Fixture f;
  const fs::path run = std::getenv("RUN_FOLDER");
  for (int64_t step = std::atoll(std::getenv("FIRST_STEP"));; ++step) {
    f.save(run, step);
    prune_checkpoints(run, 2, 0);
  }
}

TEST(Checkpoint, SurvivesKill) {
  testing::TemporaryFolder run;
  Fixture f;
  int64_t step = f.check_latest(f.save(run.path(), 1).parent_path().parent_path());
  for (int round = 0; round < 5; ++round) {
    const pid_t pid = testing::start_helper("CheckpointHelper.SaveForEver",
                                            {{"RUN_FOLDER", run.path().string()}, {"FIRST_STEP", std::to_string(step + 1)}});
    // Until it saves; then a moment that differs from round to round.
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (latest_checkpoint(run.path())->filename().string() <= fmt::format("step-{:08d}", step + 1) &&
           std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    std::this_thread::sleep_for(std::chrono::microseconds(1000 + 3137 * round));
    kill(pid, SIGKILL);
    EXPECT_EQ(testing::wait_helper(pid), 128 + SIGKILL);
    const int64_t now = f.check_latest(run.path());
    EXPECT_GT(now, step);
    step = now;
    EXPECT_NO_THROW(load_model(run.path() / "model", at::kCPU)) << "round " << round;
  }
  f.save(run.path(), step + 1);  // what the killed ones left behind is no obstacle
  EXPECT_EQ(f.check_latest(run.path()), step + 1);
  EXPECT_FALSE(fs::exists(run.path() / "checkpoints" / ".writing"));
}

}  // namespace
}  // namespace cairn
