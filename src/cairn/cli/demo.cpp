// cairn demo: a tiny model learns from nothing, reads texts up to 1,024 times as long as it ever saw, and a report shows what came of it.
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "cairn/cli/commands.h"
#include "cairn/core/error.h"
#include "cairn/core/log.h"
#include "cairn/core/progress.h"
#include "cairn/eval/evaluate.h"
#include "cairn/eval/open_model.h"
#include "cairn/report/report.h"
#include "cairn/train/trainer.h"

namespace cairn {
namespace {

struct Options {
  std::string config = "configs/demo.toml", run = "runs/demo", models = "models";
  int64_t seed = 1, samples = 60;
  std::vector<int64_t> multiples = {1, 8, 64, 256, 1024};  // of the training length
  int threads = 0;
  bool fresh = false;
};

// The word-pairs sweep of the trained model; the JSON file is rewritten after each cell.
std::vector<EvalCell> sweep(const Options& options, const TrainConfig& config, const fs::path& model_folder, const fs::path& json) {
  OpenOptions opening;
  opening.folder = model_folder.string();
  opening.training_length = config.longest();
  OpenedModel opened = open_model(opening);
  const TaskSet tasks(opened.tokenizer, nullptr, config.tasks);
  EvalPlan plan;
  plan.tasks = {"word_pairs"};
  for (const int64_t multiple : options.multiples) plan.lengths.push_back(multiple * config.longest());
  plan.samples = options.samples;
  plan.seed =
      static_cast<uint64_t>(options.seed) + 1000;  // evaluation pairs are held out by hash; another seed keeps the fillers apart too
  opened.header.haystack = "rivals";
  opened.header.seed = plan.seed;
  check_plan(opened.reader, tasks, plan);
  return evaluate(opened.reader, tasks, *opened.tokenizer, plan,
                  [&](const std::vector<EvalCell>& cells) { write_file(json, eval_json(opened.header, opened.config, cells)); });
}

// Results that come with shipped models (models/NAME/eval*.json) stand beside the demo's own.
std::vector<fs::path> shipped_results(const fs::path& models) {
  std::vector<fs::path> found;
  if (!fs::is_directory(models)) return found;
  for (const auto& entry : fs::recursive_directory_iterator(models)) {
    const std::string name = entry.path().filename().string();
    if (entry.is_regular_file() && name.starts_with("eval") && name.ends_with(".json")) found.push_back(entry.path());
  }
  std::sort(found.begin(), found.end());
  return found;
}

int run(const Options& options) {
  if (options.samples < 1) throw UserError("--samples must be at least 1, not {}", options.samples);
  if (options.threads > 0) at::set_num_threads(options.threads);
  TrainConfig config;
  OptionTable table;
  config.declare(table);
  table.load_toml(options.config);
  config.train.seed = options.seed;
  config.validate();
  const fs::path folder = options.run, json = folder / "eval.json", page = folder / "report.html";
  if (options.fresh) fs::remove_all(folder);

  fmt::print("1. Train: {:.2f}M parameters from nothing, on texts of {} tokens, in {}\n",
             static_cast<double>(config.model.parameter_count()) / 1e6, config.longest(), folder.string());
  std::fflush(stdout);
  install_stop_handler();
  TrainRun training;
  training.folder = folder;
  training.resume = fs::exists(folder / "config.toml");  // a demo that was stopped goes on; a finished one is only asked again
  const TrainResult trained = train(config, training);
  if (stop_requested()) {
    log_warn("stopped; the same command goes on from the last checkpoint in {}", folder.string());
    return kExitStopped;
  }
  if (!trained.good()) {
    log_error("training ended without skill: {}", trained.diagnosis);
    return 1;
  }

  fmt::print("2. Ask: {} questions each about texts of {} to {} tokens that it has never seen\n", options.samples,
             format_length(options.multiples.front() * config.longest()), format_length(options.multiples.back() * config.longest()));
  std::fflush(stdout);
  const std::vector<EvalCell> cells = sweep(options, config, trained.model, json);
  std::fputs(eval_table(cells).c_str(), stdout);
  if (stop_requested()) {
    log_warn("stopped: {} finished cells are kept in {}", cells.size(), json.string());
    return kExitStopped;
  }

  std::vector<fs::path> inputs = {folder, json};
  for (const fs::path& shipped : shipped_results(options.models)) inputs.push_back(shipped);
  write_report(inputs, page);
  fmt::print("3. Look: {}\n{}\n", fs::absolute(page).lexically_normal().string(), report_verdict({folder, json}));
  return 0;
}

}  // namespace

void add_demo(Command& app, Action* action) {
  auto o = std::make_shared<Options>();
  Command* command = app.add_subcommand("demo", "Train a tiny model from nothing, ask it about texts 1,024 times as long, write a report");
  command->add_option("--config", o->config, "configuration of the tiny model")->capture_default_str();
  command->add_option("--run", o->run, "run folder; a stopped demo goes on in it")->capture_default_str();
  command->add_option("--models", o->models, "folder of shipped models whose results are shown too")->capture_default_str();
  command->add_option("--seed", o->seed, "seed of the weights and samples")->range(0, int64_t{1} << 40)->capture_default_str();
  command->add_option("--samples", o->samples, "questions a length")->range(1, 1000000)->capture_default_str();
  command->add_option("--multiples", o->multiples, "lengths to ask at, as multiples of the training length")
      ->delimiter(',')
      ->range(1, int64_t{1} << 30)
      ->capture_default_str();
  command->add_option("--threads", o->threads, "threads (default: all cores)")->range(1, 4096);
  command->add_flag("--fresh", o->fresh, "delete the run folder first and train again");
  command->callback([o, action] { *action = [o] { return run(*o); }; });
}

}  // namespace cairn
