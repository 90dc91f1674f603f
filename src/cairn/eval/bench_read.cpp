#include "cairn/eval/bench_read.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/Version.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <functional>
#include <memory>
#include <vector>

#include "cairn/core/error.h"
#include "cairn/core/files.h"
#include "cairn/core/json.h"
#include "cairn/core/progress.h"
#include "cairn/core/random.h"
#include "cairn/dist/world.h"
#include "cairn/eval/open_model.h"
#include "cairn/infer/reader.h"

namespace cairn {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// The configuration whose reading speed is a figure of the project.
ModelConfig preset_7m() {
  ModelConfig c;
  c.d_model = 256;
  c.heads = c.kv_heads = 8;
  c.head_dim = 32;
  c.mlp_width = 640;
  c.window = 129;
  c.lower_layers = 2;
  c.chunk = 64;
  c.encoder_layers = 1;
  c.retrieval_dim = 256;
  c.memory_heads = 8;
  c.upper = {"memory+window"};
  return c;
}

// One matrix product of reading: rows of a segment x in -> out.
struct Product {
  std::string name;
  int64_t rows_per_token_times_chunk;  // rows a chunk's worth of tokens gives
  int64_t in, out;
  int64_t count;  // times a segment
};

std::vector<Product> products(const ModelConfig& c) {
  const int64_t S = c.chunk, e = S + (c.landmark == "cls"), q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim, d = c.d_model;
  const int64_t memory_kv = c.memory_kv_heads * c.head_dim;
  std::vector<Product> all;
  const auto layer = [&](const char* name, int64_t rows, int64_t count) {
    if (count == 0) return;
    all.push_back({std::string(name) + " q, k, v", rows, d, q + 2 * kv, count});
    all.push_back({std::string(name) + " output", rows, q, d, count});
    all.push_back({std::string(name) + " gate, up", rows, d, 2 * c.mlp(), count});
    all.push_back({std::string(name) + " down", rows, c.mlp(), d, count});
  };
  layer("lower", S, c.lower_layers);
  layer("encoder", e, c.encoder_layers);
  all.push_back({"landmarks", 1, d, c.retrieval_dim, 1});
  all.push_back({"memory k, v", S, d, 2 * memory_kv, 1});
  return all;
}

// FLOPs of one token of reading: products, and the two of each attention (a window sees W keys, an encoder row S or S+1).
double flops_per_token(const ModelConfig& c) {
  double flops = 0;
  for (const Product& p : products(c)) {
    flops += 2.0 * static_cast<double>(p.rows_per_token_times_chunk * p.in * p.out * p.count) / static_cast<double>(c.chunk);
  }
  const double e = static_cast<double>(c.chunk + (c.landmark == "cls")), width = static_cast<double>(c.heads * c.head_dim);
  flops += 4.0 * width * static_cast<double>(c.lower_layers * c.window);
  flops += 4.0 * width * static_cast<double>(c.encoder_layers) * e * e / static_cast<double>(c.chunk);
  return flops;
}

void wait_for(const at::Tensor& x) { x.flatten().narrow(0, 0, 1).item(); }

// FLOP/s of the reader's products at its own shapes, each weighted by its share of the work; measured for about `budget` seconds.
double product_rate(const ModelConfig& c, int64_t segment, at::TensorOptions options, double budget) {
  double flops = 0, seconds = 0;
  const std::vector<Product> all = products(c);
  for (const Product& p : all) {
    const int64_t rows = std::max<int64_t>(1, segment / c.chunk * p.rows_per_token_times_chunk);
    const at::Tensor x = at::randn({rows, p.in}, options), w = at::randn({p.out, p.in}, options);
    wait_for(at::linear(x, w));
    int64_t times = 0;
    const Clock::time_point start = Clock::now();
    double spent = 0;
    do {
      wait_for(at::linear(x, w));
      ++times;
      spent = seconds_since(start);
    } while (spent < budget / static_cast<double>(all.size()));
    const double work = 2.0 * static_cast<double>(rows * p.in * p.out * p.count);
    flops += work;
    seconds += spent / static_cast<double>(times) * static_cast<double>(p.count);
  }
  return flops / seconds;
}

int64_t peak_memory() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

// The product rate over the run: the machine may be shared, so the rate is measured before, in the middle and after, and averaged by time.
struct Measured {
  double seconds = 0, rate = 0;
  int64_t memory_bytes = 0;
};

Measured measure(const Reader& reader, int64_t tokens, int64_t vocab, at::TensorOptions products_options) {
  const ModelConfig& config = reader.model().config();
  Measured m;
  const int kParts = reader.world() == nullptr ? 4 : 1;  // several processes divide what they read first
  std::vector<double> rates = {product_rate(config, reader.segment_tokens(), products_options, 0.8)};
  const auto state = reader.new_reader_state(1);
  const uint64_t key = stream_key({7});
  const TokenFetch fetch = [&](int64_t, int64_t begin, std::span<int32_t> out) {
    // Cheap and different everywhere; a text's contents do not change the work.
    for (size_t i = 0; i < out.size(); ++i) {
      const uint64_t x = (static_cast<uint64_t>(begin) + i) * 0x9e3779b97f4a7c15ULL ^ key;
      out[i] = static_cast<int32_t>((x >> 33) % static_cast<uint64_t>(vocab));
    }
  };
  Progress progress("read", tokens, "tokens");
  for (int part = 0; part < kParts; ++part) {
    const int64_t begin = tokens / kParts * part, end = part + 1 == kParts ? tokens : tokens / kParts * (part + 1);
    const Clock::time_point start = Clock::now();
    reader.read(*state, end - begin, fetch, [&](int64_t done) {
      progress.update(begin + done);
      return !stop_requested();
    });
    wait_for(state->tail);
    if (World* world = reader.world()) world->barrier();
    m.seconds += seconds_since(start);
    if (stop_requested()) throw UserError("stopped");
    rates.push_back(product_rate(config, reader.segment_tokens(), products_options, 0.8));
  }
  progress.finish();
  // Harmonic mean: time at each rate is what adds up.
  double inverse = 0;
  for (const double rate : rates) inverse += 1 / rate;
  m.rate = static_cast<double>(rates.size()) / inverse;
  m.memory_bytes = state->memory.bytes();
  return m;
}

}  // namespace

ModelConfig bench_model(const std::string& name) {
  if (name.empty() || name == "7m") return preset_7m();
  if (fs::is_directory(name)) {
    const fs::path file = fs::path(name) / "config.json";
    return ModelConfig::from_json(read_file(file, 1 << 20), file.string());
  }
  throw UserError("{}: neither a model folder nor '7m'", name);
}

int bench_read(const BenchReadOptions& o) {
  if (o.precision != "fp32" && o.precision != "bf16") throw UserError("--precision is fp32 or bf16, not '{}'", o.precision);
  if (o.memory_on == "host" && o.device != "cuda")
    throw UserError("--memory-on host: main memory is where a CPU has it; use --device cuda");
  if (o.tokens < 4096) throw UserError("--tokens must be at least 4096, not {}", o.tokens);
  if (o.device == "cuda" && !at::globalContext().hasCUDA()) throw UserError("--device cuda: this program or this machine has no CUDA");
  const at::NoGradGuard no_gradient;
  const at::Device device = o.device == "cuda" ? local_gpu() : at::Device(at::kCPU);
  const std::shared_ptr<World> world = World::from_environment(device);
  if (o.threads > 0) at::set_num_threads(o.threads);
  const at::ScalarType compute = o.precision == "bf16" ? at::kBFloat16 : at::kFloat;
  const ModelConfig config = bench_model(o.model);
  config.validate();
  const int64_t element = compute == at::kBFloat16 ? 2 : 4;
  const EightBit eight_bit = parse_eight_bit(o.landmark_dtype, o.kv_dtype);
  const int64_t memory = ChunkMemory::bytes_for(config, 1, o.tokens / config.chunk, element, eight_bit),
                need = Reader::state_bytes(config, 1, o.tokens / world->size(), compute, eight_bit);
  if (device.is_cpu() && need + (int64_t{600} << 20) > available_memory()) {
    throw ResourceError("reading {} tokens needs {}, but only {} are available", o.tokens, format_bytes(static_cast<double>(need)),
                        format_bytes(static_cast<double>(available_memory())));
  }
  auto parameters = std::make_shared<Parameters>(config, device);
  parameters->initialize(1);
  ReaderOptions reading;
  reading.compute = compute;
  reading.segment = o.segment;
  reading.keys = o.memory_on == "host" ? KeysOn::kHost : KeysOn::kDevice;
  reading.world = world;
  reading.eight_bit = eight_bit;
  const Reader reader(std::make_shared<Model>(config, parameters), reading);

  if (world->size() == 1) install_stop_handler();
  // Warm: weights are cast and joined, code paths chosen.
  reader.read(*reader.new_state(1), at::randint(0, config.vocab, {1, std::min<int64_t>(o.tokens, 2 * reader.segment_tokens())},
                                                at::TensorOptions().dtype(at::kLong).device(device)));
  const Measured m = measure(reader, o.tokens, config.vocab, at::TensorOptions().dtype(compute).device(device));
  const double flops = flops_per_token(config) * static_cast<double>(o.tokens), bound = flops / m.rate, ratio = m.seconds / bound;
  const int64_t peak = peak_memory(), allowed = memory + 600'000'000;

  if (world->rank() > 0) return 0;
  std::string out;
  const auto row = [&](const char* name, const std::string& value) { out += fmt::format("{:<34}{}\n", name, value); };
  row("model",
      fmt::format("{} ({:.2f}M parameters, d {}, {} lower, {} encoder)", o.model.empty() ? "7m" : o.model,
                  static_cast<double>(config.parameter_count()) / 1e6, config.d_model, config.lower_layers, config.encoder_layers));
  row("machine", fmt::format("{}{}, {} threads, {}, CPU capability {}", device.str(),
                             world->size() > 1 ? fmt::format(" and its like, {} processes", world->size()) : "", at::get_num_threads(),
                             o.precision, at::get_cpu_capability()));
  row("tokens", fmt::format("{} in segments of {}", o.tokens, reader.segment_tokens()));
  row("time", fmt::format("{:.2f} s, {:.0f} tokens/s", m.seconds, static_cast<double>(o.tokens) / m.seconds));
  row("work", fmt::format("{:.2f} TFLOP, {:.1f} GFLOP/s", flops / 1e12, flops / m.seconds / 1e9));
  row("product rate at its own shapes", fmt::format("{:.1f} GFLOP/s (same run)", m.rate / 1e9));
  row("time / (work / rate)", fmt::format("{:.2f} (figure: at most 1.6)", ratio));
  row("keys, values, landmarks",
      fmt::format("{} (pages: {}{})", format_bytes(static_cast<double>(memory)), format_bytes(static_cast<double>(m.memory_bytes)),
                  o.memory_on == "host" ? ", keys and values in pinned host memory" : ""));
  row("peak memory of the process",
      fmt::format("{} (figure: at most {})", format_bytes(static_cast<double>(peak)), format_bytes(static_cast<double>(allowed))));
  std::fputs(out.c_str(), stdout);
  if (!o.json.empty()) {
    const nlohmann::ordered_json json = {{"cairn", CAIRN_VERSION},
                                         {"kind", "bench_read"},
                                         {"tokens", o.tokens},
                                         {"precision", o.precision},
                                         {"landmark_dtype", o.landmark_dtype},
                                         {"kv_dtype", o.kv_dtype},
                                         {"device", device.str()},
                                         {"processes", world->size()},
                                         {"memory_on", o.memory_on},
                                         {"threads", at::get_num_threads()},
                                         {"capability", at::get_cpu_capability()},
                                         {"segment", reader.segment_tokens()},
                                         {"seconds", m.seconds},
                                         {"flops", flops},
                                         {"product_rate", m.rate},
                                         {"ratio", ratio},
                                         {"memory_bytes", memory},
                                         {"peak_bytes", peak}};
    write_file(o.json, json.dump(1) + "\n");
  }
  return 0;
}

}  // namespace cairn
