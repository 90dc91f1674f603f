// cairn tokenizer train | encode | decode | bench
#include "cairn/text/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <iostream>
#include <iterator>
#include <memory>

#include "cairn/cli/commands.h"
#include "cairn/core/error.h"
#include "cairn/core/log.h"
#include "cairn/text/utf8.h"

namespace cairn {
namespace {

struct Settings {
  std::string tokenizer;
  std::vector<std::string> files;
  std::string file = "-", output;
  int64_t vocab = 4096, sample_bytes = 50'000'000;
  uint64_t seed = 1;
  int threads = 0, repeats = 3;
};

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::string read_input(const std::string& file) {
  if (file != "-") return read_file(file);
  return std::string(std::istreambuf_iterator<char>(std::cin), {});
}

void write_output(std::string_view bytes) {
  if (std::fwrite(bytes.data(), 1, bytes.size(), stdout) != bytes.size() || std::fflush(stdout) != 0)
    throw UserError("cannot write to standard output");
}

int train(const Settings& settings) {
  TokenizerTraining training;
  training.files.assign(settings.files.begin(), settings.files.end());
  training.vocab_size = settings.vocab;
  training.max_sample_bytes = settings.sample_bytes;
  training.seed = settings.seed;
  training.threads = settings.threads;
  const auto start = std::chrono::steady_clock::now();
  const std::string model = train_sentencepiece(training);
  const auto tokenizer = parse_tokenizer(model, settings.output);
  write_file(settings.output, model);
  fmt::print("{}: {} pieces, fingerprint {}, trained in {}\n", settings.output, tokenizer->vocab_size(), tokenizer->fingerprint(),
             format_duration(seconds_since(start)));
  return 0;
}

int encode(const Settings& settings) {
  const auto tokenizer = load_tokenizer(settings.tokenizer);
  const std::string text = read_input(settings.file);
  require_utf8(text, settings.file == "-" ? "standard input" : settings.file);
  const auto start = std::chrono::steady_clock::now();
  const auto ids = encode_parallel(*tokenizer, text, settings.threads);
  const double seconds = seconds_since(start);
  std::string line;
  for (size_t i = 0; i < ids.size(); ++i) fmt::format_to(std::back_inserter(line), "{}{}", i == 0 ? "" : " ", ids[i]);
  write_output(line + "\n");
  log_info("{} bytes, {} tokens in {} ({:.1f} MB/s)", text.size(), ids.size(), format_duration(seconds),
           static_cast<double>(text.size()) / 1e6 / std::max(seconds, 1e-9));
  return 0;
}

int decode(const Settings& settings) {
  const auto tokenizer = load_tokenizer(settings.tokenizer);
  const std::string text = read_input(settings.file);
  std::vector<int32_t> ids;
  constexpr std::string_view kBlank = " \t\r\n,";
  for (size_t at = text.find_first_not_of(kBlank); at != std::string::npos; at = text.find_first_not_of(kBlank, at)) {
    const size_t end = std::min(text.find_first_of(kBlank, at), text.size());
    int32_t id = 0;
    const auto [stop, status] = std::from_chars(text.data() + at, text.data() + end, id);
    if (status != std::errc() || stop != text.data() + end)
      throw UserError("token ids at byte offset {}: \"{}\" is not a number", at,
                      repair_utf8(std::string_view(text).substr(at, std::min<size_t>(end - at, 40))));
    ids.push_back(id);
    at = end;
  }
  write_output(tokenizer->decode(ids));
  return 0;
}

int bench(const Settings& settings) {
  const auto tokenizer = load_tokenizer(settings.tokenizer);
  const std::string text = read_input(settings.file);
  if (text.empty()) throw UserError("{}: the file is empty", settings.file);
  require_utf8(text, settings.file == "-" ? "standard input" : settings.file);
  const double megabytes = static_cast<double>(text.size()) / 1e6;
  // A fresh tokenizer first: its cache of words is empty then.
  std::vector<int32_t> ids;
  for (int i = 0; i < settings.repeats; ++i) {
    const std::clock_t processor = std::clock();
    const auto start = std::chrono::steady_clock::now();
    ids = encode_parallel(*tokenizer, text, settings.threads);
    const double seconds = seconds_since(start);
    const double processor_seconds = static_cast<double>(std::clock() - processor) / CLOCKS_PER_SEC;
    fmt::print("encode{}: {:.2f} MB in {:.3f} s, {:.1f} MB/s, {:.1f} M tokens/s; {:.1f} MB a second of processor time\n",
               i == 0 ? " (cold)" : "", megabytes, seconds, megabytes / seconds, static_cast<double>(ids.size()) / 1e6 / seconds,
               megabytes / processor_seconds);
  }
  const auto start = std::chrono::steady_clock::now();
  const std::string back = tokenizer->decode(ids);
  const double seconds = seconds_since(start);
  fmt::print("decode: {:.1f} MB/s; {} tokens, {:.2f} bytes a token; the text comes back {}\n", megabytes / seconds, ids.size(),
             static_cast<double>(text.size()) / static_cast<double>(ids.size()), back == text ? "exactly" : "CHANGED");
  return back == text ? 0 : 1;
}

}  // namespace

void add_tokenizer(Command& app, Action* action) {
  auto* command = app.add_subcommand("tokenizer", "Train a tokenizer; turn text into token ids and back");
  command->require_subcommand(1);
  const auto settings = std::make_shared<Settings>();

  auto* train_command = command->add_subcommand("train", "Train a SentencePiece BPE tokenizer on text files");
  train_command->add_option("files", settings->files, "Text files, UTF-8; documents may be separated by NUL bytes")->required();
  train_command->add_option("--vocab", settings->vocab, "Size of the vocabulary (256 of it are bytes)")->capture_default_str();
  train_command->add_option("-o,--output", settings->output, "The tokenizer file to write")->required();
  train_command->add_option("--sample-bytes", settings->sample_bytes, "Train on a sample of the files of at most this many bytes")
      ->capture_default_str();
  train_command->add_option("--seed", settings->seed, "Seed of the sample")->capture_default_str();
  train_command->add_option("--threads", settings->threads, "Threads (0: all cores); the result is the same for any number")
      ->capture_default_str();
  train_command->callback([=] { *action = [=] { return train(*settings); }; });

  const auto add_common = [settings](Command* sub, const char* file_help) {
    sub->add_option("--tokenizer", settings->tokenizer, "\"bytes\" or a tokenizer file")->required();
    sub->add_option("file", settings->file, file_help)->capture_default_str();
  };
  auto* encode_command = command->add_subcommand("encode", "Print the token ids of a text");
  add_common(encode_command, "Text file, UTF-8; -: standard input");
  encode_command->add_option("--threads", settings->threads, "Threads (0: all cores)")->capture_default_str();
  encode_command->callback([=] { *action = [=] { return encode(*settings); }; });

  auto* decode_command = command->add_subcommand("decode", "Print the text of token ids");
  add_common(decode_command, "File of token ids, separated by spaces, commas or line ends; -: standard input");
  decode_command->callback([=] { *action = [=] { return decode(*settings); }; });

  auto* bench_command = command->add_subcommand("bench", "Measure encoding and decoding on a text, and check that the text comes back");
  add_common(bench_command, "Text file, UTF-8; -: standard input");
  bench_command->add_option("--threads", settings->threads, "Threads (0: all cores)")->capture_default_str();
  bench_command->add_option("--repeats", settings->repeats, "How often to encode; the first time with an empty cache")
      ->capture_default_str()
      ->range(1, 1000);
  bench_command->callback([=] { *action = [=] { return bench(*settings); }; });
}

}  // namespace cairn
