#include "cairn/eval/bench_memory.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/Version.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/tensor.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>
#include <vector>

#include "cairn/core/error.h"
#include "cairn/core/json.h"
#include "cairn/core/random.h"
#include "cairn/dist/world.h"
#include "cairn/eval/bench_read.h"
#include "cairn/eval/open_model.h"
#include "cairn/eval/resources.h"
#include "cairn/infer/edit.h"
#include "cairn/infer/graph_decoder.h"
#include "cairn/infer/memory_file.h"

namespace cairn {
namespace {

struct Times {
  std::vector<double> seconds;
  double at(double share) const {
    std::vector<double> sorted = seconds;
    std::sort(sorted.begin(), sorted.end());
    return sorted[static_cast<size_t>(share * static_cast<double>(sorted.size() - 1) + 0.5)];
  }
  std::string text() const {
    return fmt::format("{:.3f} ms (median of {}; {:.3f} to {:.3f})", 1e3 * at(.5), seconds.size(), 1e3 * at(0), 1e3 * at(1));
  }
};

// One token after the other behind the text.
Times decode(const Reader& reader, const TextMemory& text, int64_t count, at::Device device) {
  const auto state = text.state->fork();
  at::Tensor next = at::randint(1, reader.vocab(), {1, 8}, at::TensorOptions(at::kLong).device(device));
  Times times;
  next = reader.advance_last(*state, next, 1).select(1, 0).argmax(-1, true);
  StepDecoder steps(reader, *state, count);
  for (int64_t i = 0; i < count + 5; ++i) {
    Stopwatch watch(device);
    steps.advance(next);
    next = steps.best();
    const double seconds = watch.lap();
    if (i >= 5) times.seconds.push_back(seconds);  // the first ones run the tail and warm up
  }
  return times;
}

TextMemory read_random(const Reader& reader, int64_t tokens, int64_t token_bytes) {
  TextMemory text;
  text.tokens = TokenPages(token_bytes);
  std::vector<int32_t> ids(65536);
  Random random(stream_key({11}));
  for (int64_t done = 0; done < tokens; done += std::ssize(ids)) {
    ids.resize(std::min<int64_t>(65536, tokens - done));
    for (int32_t& id : ids) id = static_cast<int32_t>(1 + random.below(reader.vocab() - 1));
    text.tokens.append(ids);
  }
  text.documents = {{"random", 0}};
  text.state = reader.new_reader_state(1);
  reader.read(*text.state, tokens, text.fetch());
  return text;
}

// Edits at random places, each asked and taken back: what a sample of an evaluation costs. *bit_exact: what came back is what was there.
void edit_and_ask(const Reader& reader, TextMemory& text, int64_t turns, at::Device device, Times* edits, Times* samples, bool* bit_exact) {
  Random random(stream_key({12}));
  constexpr int64_t kTokens = 30, kTail = 64;
  const at::Tensor tail = at::randint(1, reader.vocab(), {1, kTail}, at::TensorOptions(at::kLong).device(device));
  *bit_exact = true;
  for (int64_t turn = 0; turn < turns + 2; ++turn) {
    const int64_t begin = random.below(text.tokens.size() - kTokens);
    std::vector<int32_t> fresh(kTokens);
    for (int32_t& id : fresh) id = static_cast<int32_t>(1 + random.below(reader.vocab() - 1));
    const TokenFetch fetch = [&](int64_t, int64_t at, std::span<int32_t> out) {
      text.tokens.read(at, out);
      for (int64_t i = std::max(at, begin); i < std::min(at + std::ssize(out), begin + kTokens); ++i) out[i - at] = fresh[i - begin];
    };
    Stopwatch watch(device);
    const Reader::Replaced replaced = reader.rewrite(*text.state, begin, begin + kTokens, fetch);
    const double edit = watch.lap();
    reader.advance(*text.state->fork(), tail);
    reader.restore(*text.state, replaced);
    const double sample = edit + watch.lap();
    if (replaced.chunks.k.defined()) {
      const ChunkEncoding now = text.state->memory.copy(replaced.first_chunk, replaced.chunks.landmarks.size(1));
      *bit_exact = *bit_exact && at::equal(now.k, replaced.chunks.k) && at::equal(now.landmarks, replaced.chunks.landmarks);
    }
    if (turn < 2) continue;
    edits->seconds.push_back(edit);
    samples->seconds.push_back(sample);
  }
}

void require_host_memory(const ChunkMemory& memory) {
  const int64_t need = memory.bytes(), have = available_memory();
  if (need <= have) return;
  throw ResourceError("keys and values in host memory need {}, of which {} are free; use a smaller --tokens",
                      format_bytes(static_cast<double>(need)), format_bytes(static_cast<double>(have)));
}

// Several processes: what each holds, and whether a question behind the text gets the logits that one process with all of the memory gives.
int compare_with_one(const BenchMemoryOptions& o, const std::shared_ptr<const Model>& model, const Reader& reader, const TextMemory& text,
                     const std::function<void()>& say_head) {
  World& world = *reader.world();
  ReaderOptions all;
  all.compute = reader.options().compute;
  all.eight_bit = reader.options().eight_bit;
  const Reader alone(model, all);
  const at::TensorOptions longs = at::TensorOptions(at::kLong).device(reader.device());
  at::Tensor questions = at::randint(1, reader.vocab(), {1, 40}, longs);
  world.broadcast(questions, 0);
  const auto ask = [&](const Reader& by, const ReaderState& state) {  // the question at once, then tokens one by one
    const auto asked = state.fork();
    std::vector<at::Tensor> logits = {by.advance(*asked, questions.narrow(1, 0, 24))};
    StepDecoder steps(by, *asked, 40);
    for (int64_t t = 24; t < 40; ++t) logits.push_back(steps.advance(questions.narrow(1, t, 1)).clone());
    return at::cat(logits, 1);
  };
  const at::Tensor have = ask(reader, *text.state);
  at::Tensor held = at::tensor({text.state->bytes()}, at::kLong);
  const at::Tensor all_held = world.all_gather(held);
  std::string verdict = "not compared: one process has no room for all of it";
  bool equal = true;
  // One process after the other might share a GPU with others' work, so all of them read the whole text, if all can.
  at::Tensor fits = at::full(
      {1}, Reader::state_bytes(model->config(), 1, o.tokens, all.compute, all.eight_bit) < free_memory(reader.device()) / 2 ? 1 : 0,
      at::kLong);
  if (world.all_gather(fits).min().item<int64_t>() == 1) {
    TextMemory whole;
    whole.state = alone.new_reader_state(1);
    alone.read(*whole.state, o.tokens, text.fetch());
    const at::Tensor want = ask(alone, *whole.state);
    // bf16: one process decodes by kernels of its own, which round elsewhere.
    const double tolerance = reader.options().compute == at::kFloat ? 1e-4 : 5e-2;
    const auto compare = [&](int64_t first, int64_t count) {
      const at::Tensor a = have.narrow(1, first, count), b = want.narrow(1, first, count);
      if (at::equal(a, b)) return std::string("bit-equal");
      const double difference = (a - b).abs().max().item<double>(), size = b.abs().max().item<double>();
      const int64_t same = a.argmax(-1).eq(b.argmax(-1)).sum().item<int64_t>();
      equal = equal && difference <= tolerance * size;
      return fmt::format("differ by at most {:.2g} of {:.2g}, {} of {} tokens the same", difference, size, same, count);
    };
    verdict = fmt::format("question: {}; ", compare(0, 24));
    verdict += fmt::format("single tokens: {}", compare(24, 16));
  }
  if (world.rank() > 0) return equal ? 0 : 1;
  say_head();
  std::string parts;
  for (int64_t i = 0; i < world.size(); ++i) {
    parts += (i > 0 ? ", " : "") + format_bytes(static_cast<double>(all_held.data_ptr<int64_t>()[i]));
  }
  fmt::print("{:<34}{}\n{:<34}{}\n", fmt::format("held by {} processes", world.size()), parts, "logits against one process", verdict);
  return equal ? 0 : 1;
}

}  // namespace

int bench_memory(const BenchMemoryOptions& o) {
  if (o.tokens < 8192 || o.short_tokens < 256) throw UserError("--tokens must be at least 8192, not {}", o.tokens);
  if (o.device == "cuda" && !at::globalContext().hasCUDA()) throw UserError("--device cuda: this program or this machine has no CUDA");
  const at::NoGradGuard no_gradient;
  const at::Device device = o.device == "cuda" ? local_gpu() : at::Device(at::kCPU);
  const std::shared_ptr<World> world = World::from_environment(device);
  if (o.threads > 0) at::set_num_threads(o.threads);
  const at::ScalarType compute = o.precision == "bf16" ? at::kBFloat16 : at::kFloat;
  const ModelConfig config = bench_model(o.model);
  auto parameters = std::make_shared<Parameters>(config, device);
  parameters->initialize(1);
  const auto model = std::make_shared<Model>(config, parameters);
  const EightBit eight_bit = parse_eight_bit(o.landmark_dtype, o.kv_dtype);
  const Reader reader(model, ReaderOptions{compute, 0, 0, KeysOn::kDevice, world, eight_bit});
  require_memory(reader, 2, o.tokens);

  const fs::path folder = o.folder.empty() ? fs::temp_directory_path() : fs::path(o.folder);
  const fs::path path = folder / fmt::format("cairn-bench-{}.memory", static_cast<int64_t>(getpid()));
  const MemoryMaker maker{"0000000000000000", config, "0000000000000000", "none", config.vocab, compute};
  Stopwatch watch(device);
  TextMemory text = read_random(reader, o.tokens, maker.vocab <= 65536 ? 2 : 4);
  const double read_seconds = watch.lap();
  const TextMemory brief = read_random(reader, o.short_tokens, text.tokens.width());

  Times edits, samples;
  bool bit_exact = false;
  edit_and_ask(reader, text, o.turns, device, &edits, &samples, &bit_exact);
  const Times near = decode(reader, brief, 10 * o.turns, device), far = decode(reader, text, 10 * o.turns, device);

  const auto row = [](const char* name, const std::string& value) { fmt::print("{:<34}{}\n", name, value); };
  const auto say_head = [&] {
    row("model",
        fmt::format("{} ({:.2f}M parameters)", o.model.empty() ? "7m" : o.model, static_cast<double>(config.parameter_count()) / 1e6));
    row("machine",
        fmt::format("{}, {} threads, {}, CPU capability {}", device.str(), at::get_num_threads(), o.precision, at::get_cpu_capability()));
    const auto kept = [&](bool as_int8) { return as_int8 ? std::string("int8") : o.precision; };
    row("memory", fmt::format("{}: landmarks {}, keys and values {}", format_bytes(static_cast<double>(text.state->memory.bytes())),
                              kept(eight_bit.landmarks), kept(eight_bit.kv)));
    row("reading", fmt::format("{} tokens in {:.2f} s", o.tokens, read_seconds));
    row("edit of 30 tokens", edits.text() + (bit_exact ? "; restored bit by bit" : "; RESTORED WRONG"));
    row("sample: edit, 64 tokens, restore", samples.text());
    row("decoding a token behind 4K", near.text());
    row("decoding a token behind the text", fmt::format("{}; {:.2f} x", far.text(), far.at(.5) / near.at(.5)));
  };
  if (reader.world() != nullptr) return compare_with_one(o, model, reader, text, say_head);
  // The same behind pinned host memory, where the GPU fetches chunks from.
  Times from_host;
  bool host_equal = true;
  const at::Tensor question = at::randint(1, config.vocab, {1, 40}, at::TensorOptions(at::kLong).device(device));
  const at::Tensor want = reader.advance(*text.state->fork(), question);
  if (device.is_cuda()) {
    require_host_memory(text.state->memory);
    TextMemory hosted;
    hosted.state = text.state->fork();
    hosted.state->memory = text.state->memory.with_keys_on_host();
    host_equal = at::equal(reader.advance(*hosted.state->fork(), question), want);
    from_host = decode(reader, hosted, 10 * o.turns, device);
  }

  // Memory files hold the numbers of --precision: with 8-bit rows there is nothing to compare.
  const bool files = !eight_bit.any();
  double save_seconds = 0, load_seconds = 0;
  int64_t bytes = 0;
  bool equal = true;
  Times from_file;
  if (files) {
    watch.lap();
    save_memory(path, maker, text);
    save_seconds = watch.lap();
    struct Removed {
      fs::path path;
      ~Removed() {
        std::error_code ignored;
        fs::remove(path, ignored);
      }
    } removed{path};
    bytes = static_cast<int64_t>(fs::file_size(path));
    watch.lap();
    const MemoryFile file = MemoryFile::open(path, false);
    const TextMemory mapped = file.load(*file.root().memory, true, device);
    load_seconds = watch.lap();
    equal = at::equal(reader.advance(*mapped.state->fork(), question), want);
    from_file = decode(reader, mapped, 10 * o.turns, device);
  }

  say_head();
  if (device.is_cuda()) {
    row("the same, K/V in host memory",
        fmt::format("{}; {:.2f} x; logits {}", from_host.text(), from_host.at(.5) / near.at(.5), host_equal ? "bit-equal" : "DIFFER"));
  }
  if (files) {
    row(device.is_cuda() ? "the same, loaded from the file" : "the same, keys and values mapped",
        fmt::format("{}; {:.2f} x", from_file.text(), from_file.at(.5) / near.at(.5)));
    row("save", fmt::format("{} in {:.2f} s, {:.0f} MB/s", format_bytes(static_cast<double>(bytes)), save_seconds,
                            static_cast<double>(bytes) / save_seconds / 1e6));
    row("load, mapped", fmt::format("{:.3f} s; logits {}", load_seconds, equal ? "bit-equal" : "DIFFER"));
  } else {
    row("save, load", fmt::format("left out: memory files hold {}", o.precision));
  }
  if (!o.json.empty()) {
    const auto of_file = [&](auto value) { return files ? nlohmann::ordered_json(value) : nlohmann::ordered_json(nullptr); };
    const nlohmann::ordered_json json = {
        {"cairn", CAIRN_VERSION},
        {"kind", "bench_memory"},
        {"tokens", o.tokens},
        {"precision", o.precision},
        {"landmark_dtype", o.landmark_dtype},
        {"kv_dtype", o.kv_dtype},
        {"memory_bytes", text.state->memory.bytes()},
        {"device", device.str()},
        {"threads", at::get_num_threads()},
        {"turns", o.turns},
        {"read_seconds", read_seconds},
        {"edit_seconds", edits.at(.5)},
        {"sample_seconds", samples.at(.5)},
        {"decode_short_seconds", near.at(.5)},
        {"decode_seconds", far.at(.5)},
        {"decode_mapped_seconds", files ? nlohmann::ordered_json(from_file.at(.5)) : nlohmann::ordered_json(nullptr)},
        {"decode_host_seconds", device.is_cuda() ? nlohmann::ordered_json(from_host.at(.5)) : nlohmann::ordered_json(nullptr)},
        {"file_bytes", of_file(bytes)},
        {"save_seconds", of_file(save_seconds)},
        {"load_seconds", of_file(load_seconds)},
        {"bit_equal", equal && bit_exact && host_equal}};
    write_file(o.json, json.dump(1) + "\n");
  }
  return equal && bit_exact && host_equal ? 0 : 1;
}

}  // namespace cairn
