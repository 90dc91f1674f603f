// cairn shard: text files -> token shard
#include <fmt/format.h>

#include <chrono>
#include <memory>

#include "cairn/cli/commands.h"
#include "cairn/core/error.h"
#include "cairn/text/shards.h"

namespace cairn {
namespace {

struct Settings {
  std::string tokenizer, output;
  std::vector<std::string> files;
  int threads = 0;
};

int shard(const Settings& settings) {
  const auto tokenizer = load_tokenizer(settings.tokenizer);
  ShardWriting writing;
  writing.files.assign(settings.files.begin(), settings.files.end());
  writing.output = settings.output;
  writing.threads = settings.threads;
  const auto start = std::chrono::steady_clock::now();
  write_shard(*tokenizer, writing);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const TokenShard written(settings.output);  // read back: its header and table
  fmt::print("{}: {} tokens, {} documents, {} of text, {:.2f} bytes a token, {} ({:.1f} MB/s)\n", settings.output, written.tokens(),
             written.documents(), format_bytes(static_cast<double>(written.text_bytes())),
             static_cast<double>(written.text_bytes()) / static_cast<double>(written.tokens()), format_duration(seconds),
             static_cast<double>(written.text_bytes()) / 1e6 / seconds);
  return 0;
}

}  // namespace

void add_shard(Command& app, Action* action) {
  auto* command = app.add_subcommand("shard", "Turn text files into a token shard (docs/formats.md)");
  const auto settings = std::make_shared<Settings>();
  command
      ->add_option("files", settings->files,
                   "Text files, UTF-8, documents separated by NUL bytes; -: standard input, as in bzcat a.bz2 | cairn shard -")
      ->required();
  command->add_option("--tokenizer", settings->tokenizer, "\"bytes\" or a tokenizer file")->required();
  command->add_option("-o,--output", settings->output, "The shard to write (NAME.shard)")->required();
  command->add_option("--threads", settings->threads, "Threads (0: all cores); the result is the same for any number")
      ->capture_default_str();
  command->callback([=] { *action = [=] { return shard(*settings); }; });
}

}  // namespace cairn
