// cairn train: configuration -> run folder with checkpoints and metrics.
#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "cairn/cli/commands.h"
#include "cairn/core/error.h"
#include "cairn/train/config.h"
#include "cairn/train/rehearsal.h"
#include "cairn/train/setup.h"
#include "cairn/train/trainer.h"

namespace cairn {
namespace {

struct Settings {
  std::string config, folder, device = "cpu";
  std::vector<std::string> assignments;
  int64_t threads = 0, stop_after = 0;
  bool resume = false, dry_run = false, overfit = false;
};

int run_train(const Settings& settings) {
  TrainConfig config;
  OptionTable table;
  config.declare(table);
  table.load_toml(settings.config);
  for (const std::string& assignment : settings.assignments) table.set(assignment);

  TrainRun run;
  run.folder = settings.folder;
  run.resume = settings.resume;
  run.device = settings.device;
  run.threads = settings.threads;
  run.stop_after = settings.stop_after;
  if (settings.dry_run) {
    dry_run(config, run);
    return 0;
  }
  if (settings.overfit) {
    const Overfit seen = overfit_one_batch(config, run);
    fmt::print("one batch, {} steps: loss {:.4f} -> {:.4f}, bound {:.4f}: {}\n", seen.steps, seen.first_loss, seen.last_loss, seen.bound,
               seen.good() ? "learns" : "does not learn");
    return seen.good() ? 0 : 1;
  }
  if (settings.folder.empty()) throw UserError("--run DIR is missing: the folder that takes checkpoints and metrics");
  run.world = World::from_environment(open_device(settings.device));
  const TrainResult result = train(config, run);
  if (run.world->rank() == 0 && result.good()) fmt::print("{}\n", result.model.string());
  return result.good() ? 0 : 1;
}

}  // namespace

void add_train(Command& app, Action* action) {
  auto* command = app.add_subcommand("train", "Train a model from a configuration; the run folder takes checkpoints and metrics");
  const auto settings = std::make_shared<Settings>();
  command->add_option("CONFIG", settings->config, "configuration (TOML); `cairn config show` lists every option")->required();
  command->add_option("--run", settings->folder, "run folder; made if absent")->type_name("DIR");
  command->add_option("--set", settings->assignments, "NAME=VALUE, after the file; may be repeated")
      ->allow_extra_args(false)
      ->type_name("NAME=VALUE");
  command->add_flag("--resume", settings->resume, "go on from the newest checkpoint of the run folder");
  command->add_option("--device", settings->device, "cpu or cuda")->capture_default_str();
  command->add_option("--threads", settings->threads, "threads of tensor operations (0: all cores)")->range(0, 4096)->capture_default_str();
  command->add_option("--stop-after", settings->stop_after, "save and end once so many steps are done; --resume goes on (0: never)")
      ->not_negative();
  auto* dry = command->add_flag("--dry-run", settings->dry_run, "print parameters, memory, tokens and time, and train nothing");
  command->add_flag("--overfit-one-batch", settings->overfit, "train on one batch; exit code 0 if its loss falls to a tenth, else 1")
      ->excludes(dry);
  command->callback([=] { *action = [=] { return run_train(*settings); }; });
}

}  // namespace cairn
