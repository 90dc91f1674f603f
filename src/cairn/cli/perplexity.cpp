// cairn perplexity MODEL: language-model loss of the same tokens behind short and long contexts.
#include "cairn/eval/perplexity.h"

#include <ATen/Parallel.h>

#include <cstdio>
#include <memory>

#include "cairn/cli/commands.h"
#include "cairn/cli/memory_session.h"
#include "cairn/core/error.h"
#include "cairn/core/files.h"
#include "cairn/core/log.h"
#include "cairn/core/progress.h"
#include "cairn/eval/open_model.h"

namespace cairn {
namespace {

struct Options {
  OpenOptions opening;
  std::string text, json, near = "4K";
  std::vector<std::string> lengths = {"4K", "64K"};
  int64_t targets = 1024, windows = 8, batch = 0, training_length = 0;
  int threads = 0;
};

int64_t length_of(const std::string& option, const std::string& text) {
  int64_t length = 0;
  if (!parse_length(text, &length) || length < 1) throw UserError("{}: '{}' is not a length; write 4096, 4K or 1M", option, text);
  return length;
}

int run(const Options& options) {
  if (options.threads > 0) at::set_num_threads(options.threads);
  PerplexityPlan plan;
  for (const std::string& text : options.lengths) plan.lengths.push_back(length_of("--lengths", text));
  plan.near = length_of("--near", options.near);
  plan.targets = options.targets;
  plan.windows = options.windows;
  plan.batch = options.batch;
  OpenOptions opening = options.opening;
  if (options.training_length > 0) opening.training_length = options.training_length;
  OpenedModel opened = open_model(opening);
  plan.text = open_token_source(options.text, opened.tokenizer);
  opened.header.haystack = options.text;
  window_ends(plan);  // a text that is too short is refused before the result file is touched

  install_stop_handler();
  const auto write = [&](const PerplexityResult& result) {
    if (!options.json.empty()) write_file(options.json, perplexity_json(opened.header, opened.config, result));
  };
  write({});  // a path that cannot be written is refused before work
  const PerplexityResult result = measure_perplexity(opened.reader, *opened.tokenizer, plan, write);
  if (result.windows > 0) std::fputs(perplexity_table(result).c_str(), stdout);
  if (stop_requested()) {
    log_warn("stopped: {} of {} windows are kept", result.windows, plan.windows);
    return kExitStopped;
  }
  return 0;
}

}  // namespace

void add_perplexity(Command& app, Action* action) {
  auto o = std::make_shared<Options>();
  Command* command =
      app.add_subcommand("perplexity", "Language-model loss of the same tokens behind short and long contexts, and by position");
  command->add_option("MODEL", o->opening.folder, "model folder (model.safetensors, config.json, tokenizer)")->required();
  command->add_option("--text", o->text, "a token shard, text files, prose, prose:SEED or noise")->required();
  command->add_option("--lengths", o->lengths, "tokens in front of the targets, separated by commas: 4K,64K,1M")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--near", o->near, "the context that the others are compared with")->capture_default_str();
  command->add_option("--targets", o->targets, "target tokens a window")->range(1, int64_t{1} << 24)->capture_default_str();
  command->add_option("--windows", o->windows, "windows, evenly over the text")->range(1, 1000000)->capture_default_str();
  command->add_option("--json", o->json, "file for the result, rewritten whole after each batch of windows");
  command->add_option("--batch", o->batch, "windows read together (default: what fits and pays)")->range(1, 65536);
  command->add_option("--device", o->opening.device, "cpu or cuda")->one_of({"cpu", "cuda"})->capture_default_str();
  command->add_option("--threads", o->threads, "threads (default: all cores)")->range(1, 4096);
  command->add_option("--precision", o->opening.precision, "fp32, bf16 or auto (fp32 on a CPU, bf16 on a GPU)")
      ->one_of({"auto", "fp32", "bf16"})
      ->capture_default_str();
  command->add_option("--segment", o->opening.segment, "tokens of a reading segment, all rows together (default: by device)")
      ->range(1, int64_t{1} << 24);
  add_memory_on(command, &o->opening.memory_on, /*mapped=*/false);
  add_eight_bit(command, &o->opening.landmark_dtype, &o->opening.kv_dtype);
  command->add_option("--top-k", o->opening.top_k, "chunks a token selects (default: the model's)")->range(1, int64_t{1} << 30);
  command
      ->add_option("--training-length", o->training_length, "length the model was trained on, for the report (default: as the model says)")
      ->range(1, int64_t{1} << 40);
  command->callback([o, action] { *action = [o] { return run(*o); }; });
}

}  // namespace cairn
