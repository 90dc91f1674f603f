// Shared by the tests of window, norm, rotary, swiglu and cross-entropy: values and gradients of an operator on random inputs, compared.
#pragma once

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "cairn/core/random.h"
#include "cairn/ops/simd/isa.h"

namespace cairn::testing {

using Tensors = std::vector<at::Tensor>;
using Operator = std::function<at::Tensor(const Tensors&)>;

// cpu, or what CAIRN_TEST_DEVICE says.
inline at::Device test_device() {
  const char* name = std::getenv("CAIRN_TEST_DEVICE");
  return at::Device(name ? name : "cpu");
}

// Normal numbers that are a pure function of the test's Random.
inline at::Tensor normal(Random& random, at::IntArrayRef sizes, double scale = 1, double mean = 0) {
  at::Tensor t = at::zeros(sizes, at::kDouble);
  double* p = t.mutable_data_ptr<double>();
  for (int64_t i = 0; i < t.numel(); ++i) p[i] = mean + scale * random.normal();
  return t.to(test_device());
}

struct Outcome {
  at::Tensor y;
  Tensors grads;
};

// Inputs converted to `type`; gradients of sum(y * cotangent).
inline Outcome outcome(const Operator& op, const Tensors& inputs, const at::Tensor& cotangent, at::ScalarType type) {
  Tensors x;
  for (const at::Tensor& t : inputs) x.push_back(t.to(type).detach().clone().requires_grad_(true));
  const at::Tensor y = op(x);
  return {y.detach(), torch::autograd::grad({y}, x, {cotangent.to(y.scalar_type())})};
}

inline double worst(const at::Tensor& a, const at::Tensor& b) {
  EXPECT_EQ(a.sizes(), b.sizes());
  return a.numel() == 0 ? 0.0 : (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}
inline double largest(const at::Tensor& a) { return a.numel() == 0 ? 0.0 : a.abs().max().item<double>(); }

inline constexpr double kCancelled = 32 * 1.2e-7;

// fp32 against the reference in fp64: error at most `tolerance` of the largest value, for the result and every gradient. Gradients are
// differences of terms as large as the cotangent and may cancel to nothing (RMSNorm of one column): 32 roundings of it are allowed.
inline void expect_close_fp32(const Operator& fast, const Operator& reference, const Tensors& inputs, const at::Tensor& cotangent,
                              const std::string& what, double tolerance = 3e-6) {
  Tensors rounded;
  for (const at::Tensor& t : inputs) rounded.push_back(t.to(at::kFloat).to(at::kDouble));
  const at::Tensor c = cotangent.to(at::kFloat).to(at::kDouble);
  const Outcome got = outcome(fast, rounded, c, at::kFloat), want = outcome(reference, rounded, c, at::kDouble);
  EXPECT_EQ(got.y.scalar_type(), at::kFloat);
  EXPECT_LE(worst(got.y, want.y), tolerance * largest(want.y) + 1e-30) << what << ": result";
  for (size_t i = 0; i < inputs.size(); ++i)
    EXPECT_LE(worst(got.grads[i], want.grads[i]), 5 * tolerance * largest(want.grads[i]) + kCancelled * largest(c))
        << what << ": gradient " << i;
}

// bf16 by the manner of docs/architecture.md: error at most twice that of the same formula with every operation in bf16, plus a rounding of
// the result.
inline void expect_close_bf16(const Operator& fast, const Operator& reference, const Operator& naive, const Tensors& inputs,
                              const at::Tensor& cotangent, const std::string& what) {
  Tensors rounded;
  for (const at::Tensor& t : inputs) rounded.push_back(t.to(at::kBFloat16).to(at::kDouble));
  const at::Tensor c = cotangent.to(at::kBFloat16).to(at::kDouble);
  const Outcome got = outcome(fast, rounded, c, at::kBFloat16), want = outcome(reference, rounded, c, at::kDouble),
                rough = outcome(naive, rounded, c, at::kBFloat16);
  EXPECT_EQ(got.y.scalar_type(), at::kBFloat16);
  constexpr double kRounding = 1.0 / 512;
  EXPECT_LE(worst(got.y, want.y), 2 * worst(rough.y, want.y) + kRounding * largest(want.y)) << what << ": result";
  for (size_t i = 0; i < inputs.size(); ++i)
    EXPECT_LE(worst(got.grads[i], want.grads[i]),
              2 * worst(rough.grads[i], want.grads[i]) + kRounding * largest(want.grads[i]) + kCancelled * largest(c))
        << what << ": gradient " << i;
}

// The reference's gradient against central differences in fp64 along a random direction for each input.
inline void expect_differences(const Operator& op, const Tensors& inputs, const at::Tensor& cotangent, Random& random,
                               const std::string& what) {
  const Outcome exact = outcome(op, inputs, cotangent, at::kDouble);
  constexpr double kStep = 1e-5;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const at::Tensor direction = normal(random, inputs[i].sizes());
    const auto moved = [&](double step) {
      Tensors x = inputs;
      x[i] = x[i] + direction * step;
      return (op(x) * cotangent).sum().item<double>();
    };
    const double slope = (moved(kStep) - moved(-kStep)) / (2 * kStep), expected = (exact.grads[i] * direction).sum().item<double>();
    EXPECT_NEAR(slope, expected, 1e-6 * (1 + std::abs(expected))) << what << ": gradient " << i;
  }
}

// Twice the same: equal to the last bit.
inline void expect_repeats(const Operator& fast, const Tensors& inputs, const at::Tensor& cotangent, at::ScalarType type,
                           const std::string& what) {
  const Outcome a = outcome(fast, inputs, cotangent, type), b = outcome(fast, inputs, cotangent, type);
  EXPECT_TRUE(at::equal(a.y, b.y)) << what;
  for (size_t i = 0; i < inputs.size(); ++i) EXPECT_TRUE(at::equal(a.grads[i], b.grads[i])) << what << ": gradient " << i;
}

// Runs the body once for each instruction set that this machine has.
template <typename Body>
void for_each_isa(const Body& body) {
  limit_isa(Isa::kAvx512);
  const Isa best = cpu_isa();
  for (Isa isa : {Isa::kGeneric, Isa::kAvx2, Isa::kAvx512}) {
    if (isa > best) continue;
    limit_isa(isa);
    body(std::string(isa_name(isa)));
  }
  limit_isa(Isa::kAvx512);
}

// In a test's body: on the device that was asked for, or skipped with the reason.
#define CAIRN_NEED_TEST_DEVICE()                                                   \
  if (::cairn::testing::test_device().is_cuda() && !at::globalContext().hasCUDA()) \
  GTEST_SKIP() << "CAIRN_TEST_DEVICE asks for CUDA, which is not here"

}  // namespace cairn::testing
