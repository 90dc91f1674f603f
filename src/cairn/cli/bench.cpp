// cairn bench ops: how fast the operators are, as a share of what a matrix product of this machine reaches in the same run.
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cairn/cli/commands.h"
#include "cairn/cli/memory_session.h"
#include "cairn/core/error.h"
#include "cairn/core/files.h"
#include "cairn/core/random.h"
#include "cairn/eval/bench_gpu.h"
#include "cairn/eval/bench_memory.h"
#include "cairn/eval/bench_read.h"
#include "cairn/ops/hsa/hsa.h"
#include "cairn/ops/hsa/kernel.h"
#include "cairn/ops/select/select.h"
#include "cairn/report/ops_picture.h"
#include "cairn/train/bench_train.h"
#include "cairn/train/config.h"
#include "cairn/train/setup.h"

namespace cairn {
namespace {

constexpr int64_t kSeed = 1;

struct OpsOptions {
  std::string json, csv, picture, device = "cpu", only;
  int64_t threads = 0;
  int64_t rounds = 7;
  int64_t length = 4096, heads = 16, kv_heads = 1, head_dim = 64, chunk = 64, top_k = 8;
};

struct Line {
  std::string name;
  double flops = 0;
  std::function<void()> work;
  std::vector<double> seconds;

  double median() const {
    std::vector<double> sorted = seconds;
    std::sort(sorted.begin(), sorted.end());
    return sorted[sorted.size() / 2];
  }
  double best() const { return *std::min_element(seconds.begin(), seconds.end()); }
};

// Operands of one memory attention over `length` tokens; every token has random distinct chunks of its past, nearest first.
struct Attention {
  at::Tensor q, k, v, index, weight, grad;
  int64_t pairs = 0;  // (token, chunk)

  Attention(const OpsOptions& o, int64_t length, at::ScalarType dtype) {
    const int64_t chunks = length / o.chunk;
    const auto leaf = [&](at::IntArrayRef sizes) { return at::randn(sizes).to(dtype).requires_grad_(true); };
    q = leaf({1, length, o.heads, o.head_dim});
    k = leaf({1, chunks * o.chunk, o.kv_heads, o.head_dim});
    v = leaf({1, chunks * o.chunk, o.kv_heads, o.head_dim});
    grad = at::randn({1, length, o.heads, o.head_dim}).to(dtype);
    index = at::full({1, length, 1, o.top_k}, -1, at::kLong);
    int64_t* row = index.mutable_data_ptr<int64_t>();
    for (int64_t t = 0; t < length; ++t, row += o.top_k) {
      Random random(kSeed, static_cast<uint64_t>(t));
      std::vector<int64_t> picked = random.choose(t / o.chunk, std::min(o.top_k, t / o.chunk));
      std::sort(picked.rbegin(), picked.rend());
      std::copy(picked.begin(), picked.end(), row);
      pairs += static_cast<int64_t>(picked.size());
    }
    weight = softmax_weights(at::randn(index.sizes()), index.ge(0)).requires_grad_(true);
  }

  double flops(const OpsOptions& o) const {
    return 4.0 * static_cast<double>(o.heads) * static_cast<double>(o.chunk * o.head_dim) * static_cast<double>(pairs);
  }
};

using Path = HsaOutput (*)(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, int64_t, bool,
                           bool);

void add_attention(const OpsOptions& o, const std::string& name, int64_t length, at::ScalarType dtype, Path path,
                   std::vector<Line>* lines) {
  const auto x = std::make_shared<Attention>(o, length, dtype);
  lines->push_back({name + " forward", x->flops(o), [=] {
                      const at::NoGradGuard no_grad;
                      path(x->q, x->k, x->v, x->index, x->weight, o.chunk, false, false);
                    }});
  // Products of the backward: scores again, dP, dV, dQ, dK: five where the forward has two.
  lines->push_back({name + " forward + backward", 3.5 * x->flops(o), [=] {
                      const at::Tensor out = path(x->q, x->k, x->v, x->index, x->weight, o.chunk, false, false).o;
                      torch::autograd::grad({out}, {x->q, x->k, x->v, x->weight}, {x->grad});
                    }});
}

int bench_ops(const OpsOptions& o) {
  if (o.device == "cuda") {
    const std::string table = bench_gpu({o.json, o.only, o.rounds});
    if (!o.csv.empty()) write_file(o.csv, table);
    if (!o.picture.empty()) write_file(o.picture, report::draw_ops_picture(table, "this run"));
    return 0;
  }
  if (!o.csv.empty() || !o.picture.empty())
    throw UserError("--csv and --picture are of the table of --device cuda; --json writes that of a CPU");
  if (o.heads % o.kv_heads != 0) throw UserError("--heads {} is no multiple of --kv-heads {}", o.heads, o.kv_heads);
  if (o.threads > 0) at::set_num_threads(static_cast<int>(o.threads));
  std::vector<Line> lines;
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const int64_t n = 4096;
    const at::Tensor a = at::randn({n, n}).to(dtype), b = at::randn({n, n}).to(dtype);
    lines.push_back(
        {fmt::format("matrix product {}^3 {}", n, dtype == at::kFloat ? "fp32" : "bf16"), 2.0 * n * n * n, [=] { at::mm(a, b); }});
  }
  add_attention(o, "memory attention fp32", o.length, at::kFloat, hsa, &lines);
  add_attention(o, "memory attention bf16", o.length, at::kBFloat16, hsa, &lines);
  const int64_t short_length = std::min<int64_t>(o.length, 512);  // the reference gathers every chunk of every token
  add_attention(o, fmt::format("its reference fp32 (L {})", short_length), short_length, at::kFloat, hsa_reference, &lines);

  // In turns, so that a disturbance of the machine falls on all lines alike; the first turn warms up.
  for (int64_t round = 0; round <= o.rounds; ++round) {
    for (Line& line : lines) {
      const auto start = std::chrono::steady_clock::now();
      line.work();
      const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      if (round > 0) line.seconds.push_back(seconds);
    }
  }

  const double product = lines.front().flops / lines.front().median();
  fmt::print("{} threads, kernel {}; B 1, L {}, H {}, G {}, D {}, S {}, N {}; median of {} turns\n", at::get_num_threads(),
             hsa_cpu::kernel().name, o.length, o.heads, o.kv_heads, o.head_dim, o.chunk, o.top_k, o.rounds);
  fmt::print("{:<46} {:>10} {:>10} {:>10} {:>8}\n", "", "ms", "best ms", "GFLOP/s", "share");
  nlohmann::json report = {
      {"threads", at::get_num_threads()},
      {"kernel", hsa_cpu::kernel().name},
      {"turns", o.rounds},
      {"shape", {{"L", o.length}, {"H", o.heads}, {"G", o.kv_heads}, {"D", o.head_dim}, {"S", o.chunk}, {"N", o.top_k}}},
      {"lines", nlohmann::json::array()}};
  for (const Line& line : lines) {
    const double rate = line.flops / line.median();
    fmt::print("{:<46} {:>10.2f} {:>10.2f} {:>10.1f} {:>7.1f}%\n", line.name, line.median() * 1e3, line.best() * 1e3, rate / 1e9,
               100 * rate / product);
    report["lines"].push_back({{"name", line.name},
                               {"seconds", line.median()},
                               {"best_seconds", line.best()},
                               {"flops_per_second", rate},
                               {"share", rate / product}});
  }
  fmt::print("share: of the fp32 matrix product in this run\n");
  if (!o.json.empty()) write_file(o.json, report.dump(2) + "\n");
  return 0;
}

void add_bench_train(Command* bench, Action* action) {
  struct Settings {
    std::string config;
    std::vector<std::string> assignments;
    TrainRun run;
    BenchTrainOptions options;
  };
  const auto s = std::make_shared<Settings>();
  Command* train = bench->add_subcommand("train", "The training step in every phase of a configuration");
  train->add_option("CONFIG", s->config, "configuration (TOML)")->required();
  train->add_option("--set", s->assignments, "NAME=VALUE, after the file; may be repeated")
      ->allow_extra_args(false)
      ->type_name("NAME=VALUE");
  train->add_option("--device", s->run.device, "cpu or cuda")->one_of({"cpu", "cuda"})->capture_default_str();
  train->add_option("--threads", s->run.threads, "Threads (0: as many as LibTorch takes)")->range(0, 1024)->capture_default_str();
  train->add_option("--steps", s->options.steps, "Timed steps a phase")->range(1, 10000)->capture_default_str();
  train->add_option("--peak", s->options.peak,
                    "TFLOP/s that the device is said to reach in this precision: tells the utilisation (H100, H200: 989.4 in bf16)");
  train->add_flag("--kernels", s->options.kernels, "Also where a step's time goes, kernel by kernel (GPU)");
  train->add_option("--rows", s->options.rows, "Rows of that table")->range(1, 10000)->capture_default_str();
  train->add_option("--json", s->options.json, "Also write the tables as JSON to this file");
  train->callback([s, action] {
    *action = [s] {
      TrainConfig config;
      OptionTable table;
      config.declare(table);
      table.load_toml(s->config);
      for (const std::string& assignment : s->assignments) table.set(assignment);
      s->run.world = World::from_environment(open_device(s->run.device));
      bench_train(config, s->run, s->options);
      return 0;
    };
  });
}

}  // namespace

void add_bench(Command& app, Action* action) {
  Command* bench = app.add_subcommand("bench", "Measure this machine with Cairn's own work");
  bench->require_subcommand(1);
  Command* ops = bench->add_subcommand("ops", "Operators against the rate of a matrix product");
  const auto o = std::make_shared<OpsOptions>();
  ops->add_option("--json", o->json, "Also write the table as JSON to this file");
  ops->add_option("--csv", o->csv, "cuda: also write the table as CSV to this file");
  ops->add_option("--picture", o->picture, "cuda: also draw it, as an SVG file that stands alone");
  ops->add_option("--device", o->device, "cpu, or cuda: kernels at fixed shapes, beside the plain paths and the machine's limits")
      ->one_of({"cpu", "cuda"})
      ->capture_default_str();
  ops->add_option("--only", o->only, "cuda: lines whose name or shape contains this");
  ops->add_option("--threads", o->threads, "Threads (0: as many as LibTorch takes)")->range(0, 1024)->capture_default_str();
  ops->add_option("--turns", o->rounds, "Measured turns")->range(1, 1000)->capture_default_str();
  ops->add_option("--length", o->length, "Tokens L")->range(1, 1 << 20)->capture_default_str();
  ops->add_option("--heads", o->heads, "Query heads H")->range(1, 256)->capture_default_str();
  ops->add_option("--kv-heads", o->kv_heads, "Key/value heads G")->range(1, 256)->capture_default_str();
  ops->add_option("--head-dim", o->head_dim, "Head width D")->range(1, 256)->capture_default_str();
  ops->add_option("--chunk", o->chunk, "Chunk length S")->range(1, 4096)->capture_default_str();
  ops->add_option("--top-k", o->top_k, "Chunks a token N")->range(1, 4096)->capture_default_str();
  ops->callback([o, action] { *action = [o] { return bench_ops(*o); }; });

  Command* read =
      bench->add_subcommand("read", "Reading a text (lower half and chunk encoder), against the rate of its own matrix products");
  const auto r = std::make_shared<BenchReadOptions>();
  const auto length = std::make_shared<std::string>("1M");
  read->add_option("MODEL", r->model, "Model folder, or 7m: the preset with random weights (default)");
  read->add_option("--tokens", *length, "Tokens to read")->capture_default_str();
  read->add_option("--precision", r->precision, "bf16 or fp32")->one_of({"bf16", "fp32"})->capture_default_str();
  read->add_option("--device", r->device, "cpu or cuda")->one_of({"cpu", "cuda"})->capture_default_str();
  add_eight_bit(read, &r->landmark_dtype, &r->kv_dtype);
  read->add_option("--threads", r->threads, "Threads (0: as many as LibTorch takes)")->range(0, 1024)->capture_default_str();
  read->add_option("--segment", r->segment, "Tokens of a segment (default: the reader's own)")->range(1, int64_t{1} << 24);
  add_memory_on(read, &r->memory_on, /*mapped=*/false);
  read->add_option("--json", r->json, "Also write the result as JSON to this file");
  read->callback([r, length, action] {
    *action = [r, length] {
      if (!parse_length(*length, &r->tokens)) throw UserError("--tokens: '{}' is not a length; write 131072, 128K or 1M", *length);
      return bench_read(*r);
    };
  });

  add_bench_train(bench, action);

  auto m = std::make_shared<BenchMemoryOptions>();
  auto memory_length = std::make_shared<std::string>("1M");
  Command* memory = bench->add_subcommand("memory", "What a memory costs once it is read: edits, samples, decoding, saving, loading");
  memory->add_option("MODEL", m->model, "Model folder (random weights), or 7m: the preset (default)");
  memory->add_option("--tokens", *memory_length, "Tokens of the long text")->capture_default_str();
  memory->add_option("--precision", m->precision, "bf16 or fp32")->one_of({"bf16", "fp32"})->capture_default_str();
  memory->add_option("--device", m->device, "cpu or cuda")->one_of({"cpu", "cuda"})->capture_default_str();
  add_eight_bit(memory, &m->landmark_dtype, &m->kv_dtype);
  memory->add_option("--threads", m->threads, "Threads (0: as many as LibTorch takes)")->range(0, 1024)->capture_default_str();
  memory->add_option("--turns", m->turns, "Edits; ten times as many tokens are decoded")->range(1, 10000)->capture_default_str();
  memory->add_option("--folder", m->folder, "Folder for the memory file, which is removed again (default: for temporary files)");
  memory->add_option("--json", m->json, "Also write the result as JSON to this file");
  memory->callback([m, memory_length, action] {
    *action = [m, memory_length] {
      if (!parse_length(*memory_length, &m->tokens)) throw UserError("--tokens: '{}' is not a length; write 1048576 or 1M", *memory_length);
      return bench_memory(*m);
    };
  });
}

}  // namespace cairn
