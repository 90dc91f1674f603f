#include "cairn/eval/bench_gpu.h"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "cairn/core/error.h"
#include "cairn/core/files.h"
#include "cairn/ops/cross_entropy/cross_entropy.h"
#include "cairn/ops/cuda/kernels.h"
#include "cairn/ops/distillation/distillation.h"
#include "cairn/ops/norm/norm.h"
#include "cairn/ops/quantize/rows.h"
#include "cairn/ops/rotary/rotary.h"
#include "cairn/ops/route/route.h"
#include "cairn/ops/select/int8.h"
#include "cairn/ops/select/select.h"
#include "cairn/ops/swiglu/swiglu.h"
#include "cairn/ops/window/window.h"

namespace cairn {
namespace {

// What a line was measured at; 0: has none of it. C: chunks, of a cross-entropy words.
struct Shape {
  int64_t L = 0, C = 0, H = 0, G = 0, D = 0, N = 0;
};

struct Line {
  std::string name, shape;
  double bytes = 0, flops = 0;  // the fewest that the work must move and do
  std::function<void()> work;
  int64_t repeats = 1;  // calls between two events: short work is queued back to back
  double seconds = 0;   // median of a call
  bool plain = false;   // with the kernels switched off
  Shape numbers;
  bool backward = false;  // the forward and the backward together
  std::string full_name() const { return name + (backward ? " + backward" : "") + (plain ? ", plain" : ""); }
};

at::TensorOptions on_gpu(at::ScalarType type) { return at::TensorOptions(at::kCUDA).dtype(type); }

// Random numbers in bf16, made in pieces: no fp32 copy of gigabytes.
at::Tensor random_bf16(at::IntArrayRef sizes) {
  at::Tensor x = at::empty(sizes, on_gpu(at::kBFloat16));
  at::Tensor flat = x.view({-1});
  constexpr int64_t kPiece = int64_t{1} << 26;
  for (int64_t i = 0; i < flat.numel(); i += kPiece) {
    const int64_t count = std::min(kPiece, flat.numel() - i);
    flat.narrow(0, i, count).copy_(at::randn({count}, on_gpu(at::kFloat)));
  }
  return x;
}

// Scores of every visible chunk: L rows at the end of C chunks of 64 tokens (few rows), or L = 64 C tokens in training.
void add_selection(int64_t B, int64_t L, int64_t C, int64_t Q, int64_t width, int64_t n, std::vector<Line>* lines) {
  Visibility v;
  const bool from_start = L == 64 * C;
  v.first_position = from_start ? 0 : 64 * C;
  const double pairs = static_cast<double>(B * L * Q) * static_cast<double>(C) * (from_start ? 0.5 : 1);
  const double landmark_bytes = 2.0 * static_cast<double>(B * C * Q * width);
  const at::Tensor rq = random_bf16({B, L, Q, width}), landmarks = random_bf16({B, C, Q, width});
  const double bytes = landmark_bytes + 2.0 * static_cast<double>(rq.numel()) + 12.0 * static_cast<double>(B * L * Q * n);
  const std::string shape = fmt::format("B {} L {} C {} Q {} Dr {} N {}", B, L, C, Q, width, n);
  const int64_t repeats = landmark_bytes < 1e8 && pairs < 1e7 ? 50 : 4;  // short work is queued, or launches would be what is measured
  const auto work = [=] { select_chunks(rq, landmarks, n, v); };
  for (const bool plain : {false, true}) {
    lines->push_back({"selection", shape, bytes, 2 * pairs * static_cast<double>(width), work, plain ? 1 : repeats, 0, plain,
                      Shape{B * L, C, Q, 0, width, n}});
  }

  if (from_start) return;
  const Int8Rows rows = quantize_rows(landmarks);
  const Int8Landmarks int8{{rows.numbers}, {rows.scale}};
  const double int8_bytes = bytes - landmark_bytes / 2 + 2.0 * static_cast<double>(B * C * Q);
  lines->push_back({"selection, 8-bit landmarks", shape, int8_bytes, 2 * pairs * static_cast<double>(width),
                    [=] { select_chunks(rq, int8, n, v); }, repeats, 0, false, Shape{B * L, C, Q, 0, width, n}});
}

using Results = std::function<std::vector<at::Tensor>()>;

// An operator, forward and with its backward, by the kernels and by LibTorch's operators. bytes, flops: {forward, with backward}.
struct Measured {
  std::string name, shape;
  Shape numbers;
  double bytes[2] = {0, 0}, flops[2] = {0, 0};
  Results forward;
  std::vector<at::Tensor> inputs, grads;
};

void add_both(const Measured& m, std::vector<Line>* lines, bool plain_too = true) {
  // Tokens up to which calls are short: many are queued between two events, or the first one's launch would count.
  constexpr int64_t kShort = 16384, kMiddle = 65536;
  for (const bool plain : {false, true}) {
    if (plain && !plain_too) continue;
    for (const bool backward : {false, true}) {
      if (backward && m.inputs.empty()) continue;
      std::function<void()> work = [forward = m.forward] { forward(); };
      if (backward) {
        work = [m] {
          const at::AutoGradMode with_grad(true);
          torch::autograd::grad(m.forward(), m.inputs, m.grads);
        };
      }
      const int64_t repeats = m.flops[0] > 1e11 ? 1 : m.numbers.L <= kShort ? 50 : m.numbers.L <= kMiddle ? 20 : 4;
      lines->push_back({m.name, m.shape, m.bytes[backward], m.flops[backward], work, repeats, 0, plain, m.numbers, backward});
    }
  }
}

// Forward and backward of what is done element by element, on the tensors of `tokens` tokens; bytes: each operand and result once.
void add_norm(int64_t tokens, int64_t d, std::vector<Line>* lines) {
  const at::Tensor x = at::randn({tokens, d}, on_gpu(at::kFloat)).requires_grad_(true),
                   w = at::randn({d}, on_gpu(at::kFloat)).requires_grad_(true);
  const at::Tensor g = random_bf16({tokens, d}), g_sum = at::randn({tokens, d}, on_gpu(at::kFloat));
  const at::Tensor delta = random_bf16({tokens, d}).requires_grad_(true);
  const double n = static_cast<double>(tokens * d);
  const std::string shape = fmt::format("{} x {} fp32 to bf16", tokens, d);
  const Shape numbers{tokens, 0, 0, 0, d, 0};
  add_both({"norm",
            shape,
            numbers,
            {n * 6, n * (6 + 10)},
            {},
            [=] { return std::vector<at::Tensor>{rms_norm(x, w, at::kBFloat16)}; },
            {x, w},
            {g}},
           lines);
  const auto sum = [=] {
    const AddNorm both = add_rms_norm(x, delta, w, at::kBFloat16);
    return std::vector<at::Tensor>{both.sum, both.y};
  };
  add_both({"residual sum, norm", shape, numbers, {n * 12, n * (12 + 16)}, {}, sum, {x, delta, w}, {g_sum, g}}, lines);
}

void add_rotary(int64_t tokens, int64_t heads, int64_t width, std::vector<Line>* lines) {
  const at::Tensor x =
      random_bf16({1, tokens, 3 * heads * width}).narrow(2, 0, heads * width).view({1, tokens, heads, width}).requires_grad_(true);
  const at::Tensor w = at::randn({width}, on_gpu(at::kFloat)).requires_grad_(true), g = random_bf16({1, tokens, heads, width});
  const RotaryTable table = rotary_table(0, tokens, width, 1e4, at::kCUDA, at::kFloat);
  const double numbers = static_cast<double>(tokens * heads * width), angles = static_cast<double>(tokens * width) * 4;
  add_both({"norm, rotary",
            fmt::format("{} x {} x {} of a joint projection", tokens, heads, width),
            Shape{tokens, 0, heads, 0, width, 0},
            {numbers * 4 + angles, numbers * (4 + 6) + 2 * angles},
            {},
            [=] { return std::vector<at::Tensor>{norm_rotate(x, w, table)}; },
            {x, w},
            {g}},
           lines);
}

void add_swiglu(int64_t tokens, int64_t hidden, std::vector<Line>* lines) {
  const at::Tensor x = random_bf16({tokens, 2 * hidden}).requires_grad_(true), g = random_bf16({tokens, hidden});
  const double n = static_cast<double>(tokens * hidden);
  add_both({"swiglu",
            fmt::format("{} x {} of a joint projection", tokens, hidden),
            Shape{tokens, 0, 0, 0, hidden, 0},
            {n * 6, n * (6 + 10)},
            {},
            [=] { return std::vector<at::Tensor>{swiglu_joint(x)}; },
            {x},
            {g}},
           lines);
}

void add_cross_entropy(int64_t tokens, int64_t d, int64_t vocab, std::vector<Line>* lines) {
  const at::Tensor x = random_bf16({tokens, d}).requires_grad_(true), e = (random_bf16({vocab, d}) * 0.05).requires_grad_(true);
  const at::Tensor g = at::randn({tokens}, on_gpu(at::kFloat)), target = at::randint(0, vocab, {tokens}, on_gpu(at::kLong));
  const double product = 2.0 * static_cast<double>(tokens) * static_cast<double>(d) * static_cast<double>(vocab);
  add_both({"cross-entropy",
            fmt::format("{} x {} x {}", tokens, d, vocab),
            Shape{tokens, vocab, 0, 0, d, 0},
            {},
            {product, 4 * product},
            [=] { return std::vector<at::Tensor>{linear_cross_entropy(x, e, target).loss}; },
            {x, e},
            {g}},
           lines);
}

// Window attention is LibTorch's flash attention, cut in blocks: there is nothing plain beside it.
void add_window(int64_t tokens, int64_t window, int64_t heads, int64_t kv_heads, int64_t width, std::vector<Line>* lines) {
  const auto make = [&](int64_t h) { return random_bf16({1, tokens, h, width}).requires_grad_(true); };
  const at::Tensor q = make(heads), k = make(kv_heads), v = make(kv_heads), g = random_bf16({1, tokens, heads, width});
  const double flops = 4.0 * static_cast<double>(tokens * window) * static_cast<double>(heads * width);
  add_both({"window attention",
            fmt::format("L {} W {} H {} G {} D {}", tokens, window, heads, kv_heads, width),
            Shape{tokens, 0, heads, kv_heads, width, window},
            {},
            {flops, 3.5 * flops},
            [=] { return std::vector<at::Tensor>{window_attention(q, k, v, window)}; },
            {q, k, v},
            {g}},
           lines, /*plain_too=*/false);
}

// Landmark distillation against the masses of `heads` heads; bytes: of visible chunks, once, and a whole gradient.
void add_distillation(int64_t sequences, int64_t C, int64_t heads, std::vector<Line>* lines) {
  const int64_t L = 64 * C;
  const at::Tensor lse = at::randn({sequences, L, heads, C}, on_gpu(at::kFloat)) * 3;
  const at::Tensor score = at::randn({sequences, L, C}, on_gpu(at::kFloat)).requires_grad_(true),
                   g = at::full({sequences, L}, 1.0 / L, on_gpu(at::kFloat));
  const double rows = static_cast<double>(sequences * L), all = rows * static_cast<double>(C), visible = (all - rows) / 2;
  const double forward = 4 * (visible * static_cast<double>(heads + 1) + rows);
  add_both({"distillation",
            fmt::format("B {} L {} H {} C {}", sequences, L, heads, C),
            Shape{sequences * L, C, heads, 0, 0, 0},
            {forward, forward + 4 * (2 * visible + all)},
            {},
            [=] { return std::vector<at::Tensor>{landmark_distillation(lse, score, 64, MassOrder::kNearestFirst)}; },
            {score},
            {g}},
           lines);
}

// What only training does with the scores of `sequences` sequences of 64 C tokens: the choice of chunks, and the route loss's sums.
void add_training(int64_t sequences, int64_t C, int64_t n, std::vector<Line>* lines) {
  const int64_t L = 64 * C, rows = sequences * L;
  const at::Tensor score = at::randn({sequences, L, 1, C}, on_gpu(at::kFloat));
  const double numbers = static_cast<double>(rows * C), columns = static_cast<double>(sequences * C);
  const auto choose = [=] {
    const Selection chosen = select_from_scores(score, n, Visibility{}, /*noise_key=*/uint64_t{1} << 20);
    return std::vector<at::Tensor>{chosen.score};
  };
  add_both({"choice from scores, noise",
            fmt::format("B {} L {} C {} N {}", sequences, L, C, n),
            Shape{rows, C, 0, 0, 0, n},
            {numbers * 4 / 2 + static_cast<double>(rows * n) * 12, 0},
            {},
            choose,
            {},
            {}},
           lines);
  const at::Tensor product = random_bf16({rows, sequences * C}).requires_grad_(true), g = at::randn({rows}, on_gpu(at::kFloat)), none;
  const at::Tensor used = at::rand({rows}, on_gpu(at::kFloat)) < 2;
  const RouteLayout layout{L, C, 64, 0};
  const double all = static_cast<double>(rows) * columns;
  add_both({"route sums",
            fmt::format("{} x {}", rows, sequences * C),
            Shape{rows, sequences * C, 0, 0, 0, 0},
            {2 * all, 2 * all + 4 * all},
            {},
            [=] { return std::vector<at::Tensor>{route_log_sum(product, 0.05, layout, none, none, used)}; },
            {product},
            {g}},
           lines);
}

void measure(const std::vector<Line*>& lines, int64_t rounds) {
  const c10::impl::VirtualGuardImpl guard(c10::DeviceType::CUDA);
  const c10::Stream stream = guard.getStream(guard.getDevice());
  std::vector<std::vector<double>> seconds(lines.size());
  // In turns, so that a disturbance falls on all lines alike; the first turn warms up.
  for (int64_t round = 0; round <= rounds; ++round) {
    for (size_t i = 0; i < lines.size(); ++i) {
      enable_cuda_kernels(!lines[i]->plain);
      c10::Event begin(c10::DeviceType::CUDA, c10::EventFlag::BACKEND_DEFAULT), end(c10::DeviceType::CUDA, c10::EventFlag::BACKEND_DEFAULT);
      begin.record(stream);
      for (int64_t r = 0; r < lines[i]->repeats; ++r) lines[i]->work();
      end.record(stream);
      end.synchronize();
      if (round > 0) seconds[i].push_back(begin.elapsedTime(end) / 1e3 / static_cast<double>(lines[i]->repeats));
    }
  }
  enable_cuda_kernels(true);
  for (size_t i = 0; i < lines.size(); ++i) {
    std::sort(seconds[i].begin(), seconds[i].end());
    lines[i]->seconds = seconds[i][seconds[i].size() / 2];
  }
}

}  // namespace

std::string bench_gpu(const BenchGpuOptions& options) {
  if (!at::globalContext().hasCUDA()) throw UserError("--device cuda: no GPU here, or this is not the GPU program (make build CUDA=1)");
  const at::NoGradGuard no_grad;
  std::vector<Line> lines;
  {
    const at::Tensor from = random_bf16({int64_t{1} << 29}), to = at::empty_like(from);
    lines.push_back({"copy", "1 GiB", 2.0 * (1 << 30), 0, [=] { to.copy_(from); }});
    lines.push_back({"sum", "1 GiB of bf16", 1.0 * (1 << 30), 0, [x = from] { x.sum(); }});
    const int64_t n = 8192;
    const at::Tensor a = random_bf16({n, n}), b = random_bf16({n, n});
    lines.push_back({"matrix product bf16", fmt::format("{}^3", n), 6.0 * n * n, 2.0 * n * n * n, [=] { at::mm(a, b); }});
  }
  // Decoding: one token, eight at once, two retrieval heads, long lists.
  for (const int64_t C : {64, 4096, 65536, 524288}) add_selection(1, 1, C, 1, 512, 8, &lines);
  add_selection(1, 1, 524288, 1, 512, 128, &lines);
  add_selection(1, 1, 524288, 2, 256, 8, &lines);
  add_selection(1, 8, 524288, 1, 512, 8, &lines);
  // The tail of a question; training.
  add_selection(1, 1024, 65536, 1, 512, 8, &lines);
  add_selection(1, 1024, 524288, 1, 512, 8, &lines);
  add_selection(1, 65536, 1024, 1, 512, 8, &lines);
  add_selection(1, 65536, 1024, 1, 512, 32, &lines);
  add_selection(1, 65536, 1024, 1, 512, 64, &lines);
  add_selection(16, 4096, 64, 1, 512, 8, &lines);
  // What is done token by token: over lengths, then over widths and the like at 65,536 tokens.
  for (const int64_t tokens : {1024, 4096, 16384, 65536, 262144}) {
    add_norm(tokens, 512, &lines);
    add_rotary(tokens, 8, 64, &lines);
    add_swiglu(tokens, 1344, &lines);
    add_window(tokens, 129, 8, 8, 64, &lines);
    if (tokens <= 65536) add_cross_entropy(tokens, 512, 16384, &lines);
  }
  constexpr int64_t kTokens = 65536;
  for (const int64_t width : {64, 128, 256, 1024}) add_norm(kTokens, width, &lines);
  for (const int64_t width : {32, 128}) add_rotary(kTokens, 512 / width, width, &lines);
  for (const int64_t width : {512, 2816}) add_swiglu(kTokens, width, &lines);
  for (const int64_t words : {4096, 32768}) add_cross_entropy(kTokens, 512, words, &lines);
  for (const int64_t kv_heads : {4, 2, 1}) add_window(kTokens, 129, 8, kv_heads, 64, &lines);
  for (const int64_t width : {32, 128}) add_window(kTokens, 129, 512 / width, 512 / width, width, &lines);
  for (const int64_t C : {16, 32, 64}) add_training(kTokens / (64 * C), C, 8, &lines);
  for (const int64_t C : {16, 32, 64, 256, 512}) add_distillation(std::max<int64_t>(kTokens / (64 * C), 1), C, 16, &lines);

  std::vector<Line*> wanted;
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i < 3 || options.only.empty() || (lines[i].full_name() + " " + lines[i].shape).find(options.only) != std::string::npos)
      wanted.push_back(&lines[i]);
  }
  measure(wanted, options.rounds);
  const double bandwidth = lines[0].bytes / lines[0].seconds, rate = lines[2].flops / lines[2].seconds;
  fmt::print("median of {} turns; share: of the copy's bandwidth or the matrix product's rate in this run, whichever is more\n",
             options.rounds);
  fmt::print("{:<32} {:<40} {:>9} {:>9} {:>9} {:>7}\n", "", "", "ms", "GB/s", "TFLOP/s", "share");
  nlohmann::json report = {{"turns", options.rounds}, {"lines", nlohmann::json::array()}};
  std::string csv = "operator,direction,path,L,C,H,G,D,N,ms,GB/s,TFLOP/s,% of copy,% of product\n";
  for (const Line* line : wanted) {
    const double of_bandwidth = line->bytes / line->seconds / bandwidth, of_rate = line->flops / line->seconds / rate;
    fmt::print("{:<32} {:<40} {:>9.4f} {:>9.0f} {:>9.1f} {:>6.1f}%\n", line->full_name(), line->shape, line->seconds * 1e3,
               line->bytes / line->seconds / 1e9, line->flops / line->seconds / 1e12, 100 * std::max(of_bandwidth, of_rate));
    std::string operation = line->name;
    std::replace(operation.begin(), operation.end(), ',', ';');
    const auto count = [](int64_t n) { return n == 0 ? std::string() : fmt::format("{}", n); };
    const auto rate_of = [](double x) { return x == 0 ? std::string() : fmt::format("{:.4g}", x); };
    const Shape& n = line->numbers;
    csv += fmt::format("{},{},{},{},{},{},{},{},{},{:.5g},{},{},{},{}\n", operation, line->backward ? "forward and backward" : "forward",
                       line->plain ? "plain" : "kernel", count(n.L), count(n.C), count(n.H), count(n.G), count(n.D), count(n.N),
                       line->seconds * 1e3, rate_of(line->bytes / line->seconds / 1e9), rate_of(line->flops / line->seconds / 1e12),
                       rate_of(100 * of_bandwidth), rate_of(100 * of_rate));
    report["lines"].push_back({{"name", line->full_name()},
                               {"shape", line->shape},
                               {"seconds", line->seconds},
                               {"bytes", line->bytes},
                               {"flops", line->flops},
                               {"share_of_copy", of_bandwidth},
                               {"share_of_product", of_rate}});
  }
  if (!options.json.empty()) write_file(options.json, report.dump(2) + "\n");
  return csv;
}

}  // namespace cairn
