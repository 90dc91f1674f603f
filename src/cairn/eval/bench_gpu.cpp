#include "cairn/eval/bench_gpu.h"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
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
#include "cairn/ops/norm/norm.h"
#include "cairn/ops/quantize/rows.h"
#include "cairn/ops/rotary/rotary.h"
#include "cairn/ops/select/int8.h"
#include "cairn/ops/select/select.h"
#include "cairn/ops/swiglu/swiglu.h"

namespace cairn {
namespace {

struct Line {
  std::string name, shape;
  double bytes = 0, flops = 0;  // the fewest that the work must move and do
  std::function<void()> work;
  int64_t repeats = 1;  // calls between two events: short work is queued back to back
  double seconds = 0;   // median of a call
  bool plain = false;   // with the kernels switched off
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
  lines->push_back({"selection", shape, bytes, 2 * pairs * static_cast<double>(width), work, repeats});
  lines->push_back({"selection, plain", shape, bytes, 2 * pairs * static_cast<double>(width), work, 1, 0, true});
  if (from_start) return;
  const Int8Rows rows = quantize_rows(landmarks);
  const Int8Landmarks int8{{rows.numbers}, {rows.scale}};
  const double int8_bytes = bytes - landmark_bytes / 2 + 2.0 * static_cast<double>(B * C * Q);
  lines->push_back({"selection, 8-bit landmarks", shape, int8_bytes, 2 * pairs * static_cast<double>(width),
                    [=] { select_chunks(rq, int8, n, v); }, repeats});
}

// Forward and backward of what is done element by element, on the tensors of `tokens` tokens; bytes: each operand and result once.
void add_elementwise(int64_t tokens, std::vector<Line>* lines) {
  const auto add = [&](const std::string& name, const std::string& shape, double bytes, const std::function<void()>& work) {
    lines->push_back({name, shape, bytes, 0, work, 4});
    lines->push_back({name + ", plain", shape, bytes, 0, work, 4, 0, true});
  };
  const auto both = [](const std::function<at::Tensor()>& forward, const std::vector<at::Tensor>& inputs, const at::Tensor& grad) {
    return [=] {
      const at::AutoGradMode with_grad(true);
      torch::autograd::grad({forward()}, inputs, {grad});
    };
  };
  const int64_t d = 512, heads = 8, width = 64, hidden = 1344, vocab = 16384;
  const double n = static_cast<double>(tokens);
  {
    const at::Tensor x = at::randn({tokens, d}, on_gpu(at::kFloat)).requires_grad_(true);
    const at::Tensor w = at::randn({d}, on_gpu(at::kFloat)).requires_grad_(true), g = random_bf16({tokens, d});
    const std::string shape = fmt::format("{} x {} fp32 to bf16", tokens, d);
    add("norm", shape, n * d * 6, [=] { rms_norm(x, w, at::kBFloat16); });
    add("norm + backward", shape, n * d * (6 + 10), both([=] { return rms_norm(x, w, at::kBFloat16); }, {x, w}, g));
  }
  {
    const at::Tensor x =
        random_bf16({1, tokens, 3 * heads * width}).narrow(2, 0, heads * width).view({1, tokens, heads, width}).requires_grad_(true);
    const at::Tensor w = at::randn({width}, on_gpu(at::kFloat)).requires_grad_(true), g = random_bf16({1, tokens, heads, width});
    const RotaryTable table = rotary_table(0, tokens, width, 1e4, at::kCUDA, at::kFloat);
    const std::string shape = fmt::format("{} x {} x {} of a joint projection", tokens, heads, width);
    const double numbers = n * heads * width, angles = n * width * 4;
    add("norm, rotary", shape, numbers * 4 + angles, [=] { norm_rotate(x, w, table); });
    add("norm, rotary + backward", shape, numbers * (4 + 6) + 2 * angles, both([=] { return norm_rotate(x, w, table); }, {x, w}, g));
  }
  {
    const at::Tensor x = random_bf16({tokens, 2 * hidden}).requires_grad_(true), g = random_bf16({tokens, hidden});
    const std::string shape = fmt::format("{} x {} of a joint projection", tokens, hidden);
    add("swiglu", shape, n * hidden * 6, [=] { swiglu_joint(x); });
    add("swiglu + backward", shape, n * hidden * (6 + 10), both([=] { return swiglu_joint(x); }, {x}, g));
  }
  {
    const at::Tensor x = random_bf16({tokens, d}).requires_grad_(true), e = (random_bf16({vocab, d}) * 0.05).requires_grad_(true);
    const at::Tensor g = at::randn({tokens}, on_gpu(at::kFloat)), target = at::randint(0, vocab, {tokens}, on_gpu(at::kLong));
    const std::string shape = fmt::format("{} x {} x {}", tokens, d, vocab);
    const double product = 2 * n * d * vocab;
    for (const bool plain : {false, true}) {
      const auto loss = [=] { return linear_cross_entropy(x, e, target).loss; };
      const std::string of = plain ? ", plain" : "";
      lines->push_back({"cross-entropy" + of, shape, 0, product, [=] { loss(); }, 1, 0, plain});
      lines->push_back({"cross-entropy + backward" + of, shape, 0, 4 * product, both(loss, {x, e}, g), 1, 0, plain});
    }
  }
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

int bench_gpu(const BenchGpuOptions& options) {
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
  add_elementwise(65536, &lines);

  std::vector<Line*> wanted;
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i < 3 || options.only.empty() || (lines[i].name + " " + lines[i].shape).find(options.only) != std::string::npos)
      wanted.push_back(&lines[i]);
  }
  measure(wanted, options.rounds);
  const double bandwidth = lines[0].bytes / lines[0].seconds, rate = lines[2].flops / lines[2].seconds;
  fmt::print("median of {} turns; share: of the copy's bandwidth or the matrix product's rate in this run, whichever is more\n",
             options.rounds);
  fmt::print("{:<32} {:<40} {:>9} {:>9} {:>9} {:>7}\n", "", "", "ms", "GB/s", "TFLOP/s", "share");
  nlohmann::json report = {{"turns", options.rounds}, {"lines", nlohmann::json::array()}};
  for (const Line* line : wanted) {
    const double of_bandwidth = line->bytes / line->seconds / bandwidth, of_rate = line->flops / line->seconds / rate;
    fmt::print("{:<32} {:<40} {:>9.4f} {:>9.0f} {:>9.1f} {:>6.1f}%\n", line->name, line->shape, line->seconds * 1e3,
               line->bytes / line->seconds / 1e9, line->flops / line->seconds / 1e12, 100 * std::max(of_bandwidth, of_rate));
    report["lines"].push_back({{"name", line->name},
                               {"shape", line->shape},
                               {"seconds", line->seconds},
                               {"bytes", line->bytes},
                               {"flops", line->flops},
                               {"share_of_copy", of_bandwidth},
                               {"share_of_product", of_rate}});
  }
  if (!options.json.empty()) write_file(options.json, report.dump(2) + "\n");
  return 0;
}

}  // namespace cairn
