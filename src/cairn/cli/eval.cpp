// cairn eval MODEL: how often a model answers right, over tasks and lengths.
#include <ATen/Parallel.h>

#include <cstdio>
#include <cstdlib>
#include <memory>

#include "cairn/cli/commands.h"
#include "cairn/cli/memory_session.h"
#include "cairn/core/error.h"
#include "cairn/core/files.h"
#include "cairn/core/log.h"
#include "cairn/core/progress.h"
#include "cairn/eval/evaluate.h"
#include "cairn/eval/open_model.h"
#include "cairn/text/token_source.h"

namespace cairn {
namespace {

struct Options {
  std::string model, haystack, json, device = "cpu", precision = "auto", edits = "auto", memory_on = "device", landmark_dtype = "auto",
                                     kv_dtype = "auto";
  std::vector<std::string> tasks, lengths = {"4K", "64K"};
  int64_t samples = 100, batch = 0, segment = 0, top_k = 0, training_length = 0;
  uint64_t seed = 1;
  int threads = 0;
  bool no_floor = false, diagnose = false;
};

int run(const Options& options) {
  EvalPlan plan;
  plan.tasks = options.tasks;
  plan.samples = options.samples;
  plan.seed = options.seed;
  plan.batch = options.batch;
  plan.floor = !options.no_floor;
  plan.edits = options.edits;
  plan.diagnose = options.diagnose;
  for (const std::string& text : options.lengths) {
    int64_t length = 0;
    if (!parse_length(text, &length) || length < 1) throw UserError("--lengths: '{}' is not a length; write 4096, 4K or 1M", text);
    plan.lengths.push_back(length);
  }

  OpenOptions opening;
  opening.folder = options.model;
  opening.device = options.device;
  opening.precision = options.precision;
  opening.segment = options.segment;
  opening.top_k = options.top_k;
  opening.memory_on = options.memory_on;
  opening.landmark_dtype = options.landmark_dtype;
  opening.kv_dtype = options.kv_dtype;
  if (options.training_length > 0) opening.training_length = options.training_length;
  opening.several = true;
  OpenedModel opened = open_model(opening);
  if (options.threads > 0) at::set_num_threads(options.threads);
  World* const world = opened.reader.world();
  const bool first = world == nullptr || world->rank() == 0;
  if (!first) setenv("CAIRN_LOG", "warn", /*overwrite=*/0);  // one process reports
  if (world != nullptr && options.diagnose) throw UserError("--diagnose needs the whole memory in one process; start one only");
  const std::shared_ptr<const Tokenizer>& tokenizer = opened.tokenizer;
  if (plan.tasks.empty()) {
    plan.tasks = opened.own_words ? std::vector<std::string>{"word_pairs"}
                                  : std::vector<std::string>{"single_needle", "multi_query", "variable_tracking"};
  }
  std::string haystack = options.haystack;
  if (haystack.empty() && !opened.own_words) haystack = "prose";
  if (!haystack.empty()) plan.haystack = open_token_source(haystack, tokenizer);
  TaskOptions task_options;
  task_options.mix = {opened.own_words ? "word_pairs:1" : "text:1"};
  // Training text is asked for by the mix only; evaluation draws nothing from it.
  const TaskSet tasks(tokenizer, opened.own_words ? nullptr : plan.haystack, task_options);
  Reader& reader = opened.reader;
  EvalHeader& header = opened.header;
  header.haystack = haystack.empty() ? "rivals" : haystack;
  header.seed = options.seed;

  if (world == nullptr) install_stop_handler();  // several processes would stop at different places and wait for each other
  if (first) {
    log_info("{}: {:.2f}M parameters, {} threads, {}, {}{}", options.model, static_cast<double>(opened.config.parameter_count()) / 1e6,
             at::get_num_threads(), header.device.str(), header.compute == at::kFloat ? "fp32" : "bf16",
             world != nullptr ? fmt::format(", {} processes that share the memory", world->size()) : "");
  }
  check_plan(reader, tasks, plan);
  const bool writes = first && !options.json.empty();
  if (writes) write_file(options.json, eval_json(header, opened.config, {}));  // a path that cannot be written is refused before work
  const std::vector<EvalCell> cells = evaluate(reader, tasks, *tokenizer, plan, [&](const std::vector<EvalCell>& so_far) {
    if (writes) write_file(options.json, eval_json(header, opened.config, so_far));
  });
  if (first) std::fputs(eval_table(cells).c_str(), stdout);
  if (stop_requested()) {
    log_warn("stopped: {} finished cells are kept", cells.size());
    return kExitStopped;
  }
  return 0;
}

}  // namespace

void add_eval(Command& app, Action* action) {
  auto o = std::make_shared<Options>();
  Command* command = app.add_subcommand("eval", "Ask a model over tasks and lengths; print a table, write JSON for `cairn report`");
  command->add_option("MODEL", o->model, "model folder (model.safetensors, config.json, tokenizer)")->required();
  command->add_option("--tasks", o->tasks, "tasks, separated by commas (default: those of the model's tokenizer)")->delimiter(',');
  command->add_option("--lengths", o->lengths, "lengths in tokens, separated by commas: 4K,64K,1M")->delimiter(',')->capture_default_str();
  command->add_option("--samples", o->samples, "samples a cell")->range(1, 1000000)->capture_default_str();
  command->add_option("--seed", o->seed, "seed of the samples")->capture_default_str();
  command->add_option("--haystack", o->haystack,
                      "noise, prose, prose:SEED, text files or a token shard (default: prose; tiny word models: rivals)");
  command->add_option("--json", o->json, "file for the result, rewritten whole after each cell");
  command->add_option("--device", o->device, "cpu or cuda")->one_of({"cpu", "cuda"})->capture_default_str();
  command->add_option("--threads", o->threads, "threads (default: all cores)")->range(1, 4096);
  command->add_option("--precision", o->precision, "fp32, bf16 or auto (fp32 on a CPU, bf16 on a GPU)")
      ->one_of({"auto", "fp32", "bf16"})
      ->capture_default_str();
  command->add_option("--batch", o->batch, "samples read together (default: what fits and pays)")->range(1, 65536);
  command->add_option("--segment", o->segment, "tokens of a reading segment, all rows together (default: by device)")
      ->range(1, int64_t{1} << 24);
  command->add_option("--top-k", o->top_k, "chunks a token selects (default: the model's)")->range(1, int64_t{1} << 30);
  add_memory_on(command, &o->memory_on, /*mapped=*/false);
  add_eight_bit(command, &o->landmark_dtype, &o->kv_dtype);
  command->add_option("--edits", o->edits, "read a shared window once and overwrite the needles: on, off, or auto (long cells)")
      ->one_of({"on", "off", "auto"})
      ->capture_default_str();
  command
      ->add_option("--training-length", o->training_length, "length the model was trained on, for the report (default: as the model says)")
      ->range(1, int64_t{1} << 40);
  command->add_flag(
      "--diagnose", o->diagnose,
      "measure the retrieval itself: ranks of the source chunks, landmark scores against attention masses (up to 16K tokens), "
      "what single chunks contribute; asks every sample several times");
  command->add_flag("--no-floor", o->no_floor, "leave out the window-only floor");
  command->callback([o, action] { *action = [o] { return run(*o); }; });
}

}  // namespace cairn
