#include "cairn/ops/check_ops.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include <cmath>
#include <functional>

#include "cairn/core/random.h"
#include "cairn/ops/cross_entropy/cross_entropy.h"
#include "cairn/ops/distillation/distillation.h"
#include "cairn/ops/hsa/hsa.h"
#include "cairn/ops/norm/norm.h"
#include "cairn/ops/rotary/rotary.h"
#include "cairn/ops/select/select.h"
#include "cairn/ops/swiglu/swiglu.h"
#include "cairn/ops/window/window.h"

namespace cairn {
namespace {

using Tensors = std::vector<at::Tensor>;

// One operator on one shape: floating inputs (differentiated), and the operator by its fast path or its reference.
struct Case {
  std::string name, shape;
  Tensors inputs;  // fp32, CPU
  std::function<Tensors(const Tensors&, bool reference)> run;
};

at::Tensor random_tensor(Random& random, at::IntArrayRef shape) {
  at::Tensor tensor = at::empty(shape, at::kFloat);
  float* data = tensor.data_ptr<float>();
  for (int64_t i = 0; i < tensor.numel(); ++i) data[i] = static_cast<float>(random.normal());
  return tensor;
}

int64_t pick(Random& random, std::initializer_list<int64_t> values) {
  return *(values.begin() + random.below(static_cast<int64_t>(values.size())));
}

Case hsa_case(Random& r) {
  const int64_t B = 1 + r.below(2), G = 1 + r.below(2), H = G * pick(r, {1, 4, 16}), D = pick(r, {32, 64, 128}), S = pick(r, {16, 64}),
                N = 1 + r.below(8);
  const int64_t L = S * 2 + r.below(S * 6), C = L / S;
  Visibility visibility;
  visibility.chunk = S;
  const at::Tensor index = select_from_scores(random_tensor(r, {B, L, G, C}), N, visibility).index;
  const bool off_by_one = r.chance(0.3);
  return {"hsa",
          fmt::format("B{} L{} H{} G{} D{} S{} N{}{}", B, L, H, G, D, S, N, off_by_one ? " +1" : ""),
          {random_tensor(r, {B, L, H, D}), random_tensor(r, {B, C * S, G, D}), random_tensor(r, {B, C * S, G, D}),
           random_tensor(r, {B, L, G, index.size(3)}).abs()},
          [=](const Tensors& t, bool reference) -> Tensors {
            const at::Tensor at_device = index.to(t[0].device());
            return {(reference ? hsa_reference : hsa)(t[0], t[1], t[2], at_device, t[3], S, off_by_one, false).o};
          }};
}

Case window_case(Random& r) {
  const int64_t B = 1 + r.below(2), Hkv = 1 + r.below(2), H = Hkv * (1 + r.below(4)), D = pick(r, {32, 64, 128}), W = 1 + r.below(200);
  const int64_t L = 1 + r.below(300), M = L + r.below(W + 1);
  return {"window_attention",
          fmt::format("B{} L{} M{} H{}/{} D{} W{}", B, L, M, H, Hkv, D, W),
          {random_tensor(r, {B, L, H, D}), random_tensor(r, {B, M, Hkv, D}), random_tensor(r, {B, M, Hkv, D})},
          [=](const Tensors& t, bool reference) -> Tensors {
            return {(reference ? window_attention_reference : window_attention)(t[0], t[1], t[2], W, {})};
          }};
}

Case full_case(Random& r) {
  const int64_t B = 1 + r.below(40), Hkv = 1 + r.below(2), H = Hkv * (1 + r.below(4)), D = pick(r, {32, 64}), L = 1 + r.below(70);
  return {"full_attention",
          fmt::format("B{} L{} H{}/{} D{}", B, L, H, Hkv, D),
          {random_tensor(r, {B, L, H, D}), random_tensor(r, {B, L, Hkv, D}), random_tensor(r, {B, L, Hkv, D})},
          [](const Tensors& t, bool reference) -> Tensors {
            return {(reference ? full_attention_reference : full_attention)(t[0], t[1], t[2])};
          }};
}

Case norm_case(Random& r) {
  const int64_t rows = 1 + r.below(500), d = pick(r, {64, 256, 512, 1000});
  return {"rms_norm",
          fmt::format("{}x{}", rows, d),
          {random_tensor(r, {rows, d}), random_tensor(r, {d})},
          [](const Tensors& t, bool reference) -> Tensors { return {reference ? rms_norm_reference(t[0], t[1]) : rms_norm(t[0], t[1])}; }};
}

Case rotary_case(Random& r) {
  const int64_t B = 1 + r.below(2), L = 1 + r.below(300), H = 1 + r.below(8), D = pick(r, {32, 64, 128}), first = r.below(int64_t{1} << 40);
  return {"norm_rotate",
          fmt::format("B{} L{} H{} D{} at {}", B, L, H, D, first),
          {random_tensor(r, {B, L, H, D}), random_tensor(r, {D})},
          [=](const Tensors& t, bool reference) -> Tensors {
            const RotaryTable table =
                rotary_table(first, L, D, 1e4, t[0].device(), t[0].scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
            return {(reference ? norm_rotate_reference : norm_rotate)(t[0], t[1], table)};
          }};
}

Case swiglu_case(Random& r) {
  const int64_t rows = 1 + r.below(500), d = pick(r, {64, 640, 1344});
  return {"swiglu",
          fmt::format("{}x{}", rows, d),
          {random_tensor(r, {rows, d}), random_tensor(r, {rows, d})},
          [](const Tensors& t, bool reference) -> Tensors { return {(reference ? swiglu_reference : swiglu)(t[0], t[1])}; }};
}

Case cross_entropy_case(Random& r) {
  const int64_t rows = 1 + r.below(3000), d = pick(r, {64, 256}), vocab = 100 + r.below(2000);
  at::Tensor target = at::empty({rows}, at::kLong);
  for (int64_t i = 0; i < rows; ++i) target.data_ptr<int64_t>()[i] = r.below(vocab);
  return {"linear_cross_entropy",
          fmt::format("{}x{} vocab {}", rows, d, vocab),
          {random_tensor(r, {rows, d}), random_tensor(r, {vocab, d}) * 0.1},
          [=](const Tensors& t, bool reference) -> Tensors {
            return {(reference ? linear_cross_entropy_reference : linear_cross_entropy)(t[0], t[1], target.to(t[0].device())).loss};
          }};
}

Case distillation_case(Random& r) {
  const int64_t B = 1 + r.below(2), S = pick(r, {4, 16}), C = r.below(r.chance(0.2) ? 400 : 40), L = S * C + r.below(3 * S),
                H = 1 + r.below(20);
  const at::Tensor lse = random_tensor(r, {B, L, H, C}) * 3;
  const MassOrder order = r.chance(0.5) ? MassOrder::kNearestFirst : MassOrder::kByChunk;
  return {"landmark_distillation",
          fmt::format("B{} L{} H{} C{} S{}{}", B, L, H, C, S, order == MassOrder::kNearestFirst ? " nearest first" : ""),
          {random_tensor(r, {B, L, C})},
          [=](const Tensors& t, bool reference) -> Tensors {
            // Masses and scores are never bf16: of rounded scores, then.
            const at::Tensor score = reference || t[0].scalar_type() == at::kDouble ? t[0] : t[0].to(at::kFloat);
            return {(reference ? landmark_distillation_reference : landmark_distillation)(lse.to(score.options()), score, S, order)};
          }};
}

// Outputs, then gradients of sum(output * cotangent) for every input; all in fp64 on the CPU.
Tensors evaluate(const Case& c, at::ScalarType dtype, at::Device device, at::ScalarType input_precision, bool reference, uint64_t seed) {
  Tensors leaves;
  // Inputs are rounded to `input_precision` first, so that every version sees the same numbers.
  for (const at::Tensor& t : c.inputs) leaves.push_back(t.to(input_precision).to(device, dtype).detach().set_requires_grad(true));
  const Tensors outputs = c.run(leaves, reference);
  Tensors all;
  at::Tensor sum;
  Random random(seed, 1);
  for (const at::Tensor& output : outputs) {
    all.push_back(output.detach().to(at::kCPU, at::kDouble));
    const at::Tensor cotangent = random_tensor(random, output.sizes()).to(device, output.scalar_type());
    const at::Tensor part = (output * cotangent).sum();
    sum = sum.defined() ? sum + part : part;
  }
  sum.backward();
  for (const at::Tensor& leaf : leaves) all.push_back(leaf.grad().to(at::kCPU, at::kDouble));
  return all;
}

OperatorCheck check(const Case& c, at::ScalarType dtype, at::Device device, uint64_t seed) {
  OperatorCheck result;
  result.name = c.name;
  result.shape = c.shape;
  result.dtype = dtype == at::kBFloat16 ? "bf16" : "fp32";
  const at::ScalarType higher = dtype == at::kBFloat16 ? at::kFloat : at::kDouble;
  const double tiny = dtype == at::kBFloat16 ? 1e-2 : 2e-5;
  try {
    const Tensors fast = evaluate(c, dtype, device, dtype, false, seed), naive = evaluate(c, dtype, device, dtype, true, seed),
                  exact = evaluate(c, higher, device, dtype, true, seed);
    double worst_ratio = -1;
    for (size_t i = 0; i < exact.size(); ++i) {
      if (exact[i].numel() == 0) continue;
      const double scale = std::max(1.0, exact[i].abs().max().item<double>());
      const double error = (fast[i] - exact[i]).abs().max().item<double>();
      const double allowed = 2 * (naive[i] - exact[i]).abs().max().item<double>() + tiny * scale;
      const double ratio = std::isfinite(error) ? error / allowed : INFINITY;
      if (ratio <= worst_ratio) continue;
      worst_ratio = ratio;
      result.error = std::isfinite(error) ? error : INFINITY;
      result.allowed = allowed;
      const size_t outputs = exact.size() - c.inputs.size();
      result.worst = i < outputs ? fmt::format("output {}", i) : fmt::format("gradient of input {}", i - outputs);
    }
  } catch (const std::exception& error) {
    result.failure = error.what();
    result.failure = result.failure.substr(0, result.failure.find('\n'));
  }
  return result;
}

}  // namespace

std::vector<OperatorCheck> check_operators(at::Device device, uint64_t seed, int64_t rounds) {
  using Maker = Case (*)(Random&);
  std::vector<OperatorCheck> results;
  uint64_t stream = 0;
  for (const Maker maker :
       {&hsa_case, &window_case, &full_case, &norm_case, &rotary_case, &swiglu_case, &cross_entropy_case, &distillation_case}) {
    for (int64_t round = 0; round < rounds; ++round) {
      Random random(seed, ++stream);
      const Case c = maker(random);
      for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) results.push_back(check(c, dtype, device, seed + stream));
    }
  }
  return results;
}

}  // namespace cairn
