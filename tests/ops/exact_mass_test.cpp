// Memory attention with exact-mass weights: what it says in its header, on any device, and the gradient by the kernels' closed form written
// out.
#include "cairn/ops/hsa/exact_mass.h"

#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "ops/exact_mass_case.h"

namespace cairn {
namespace {

using namespace testing;

TEST(ExactMass, OrdinaryAttentionAtAlphaOne) {
  Random random(21, 311);
  const ExactMassCase c(random, 2, 40, 4, 2, 8, 6, 8, 5, 1, 1.0);
  const at::Tensor o = hsa_exact_mass(c.x[0], c.x[1], c.x[2], c.index, c.x[3], 1, c.S).o;
  // Softmax over all tokens of the selected chunks.
  const int64_t R = c.H / c.G;
  at::Tensor s =
      at::matmul(c.x[0].transpose(1, 2), c.x[1].repeat_interleave(R, 2).permute({0, 2, 3, 1})) / std::sqrt(static_cast<double>(c.D));
  at::Tensor open = at::zeros({c.B, c.L, c.C + 1}, c.index.options().dtype(at::kBool));
  open.scatter_(2, c.index.select(2, 0).clamp_min(-1).remainder(c.C + 1), true).select(2, c.C).fill_(false);
  const at::Tensor closed = open.narrow(2, 0, c.C).repeat_interleave(c.S, 2).logical_not().unsqueeze(1);
  const at::Tensor p = s.masked_fill(closed, -1e30).softmax(-1).masked_fill(closed, 0);
  EXPECT_LE(worst(o, at::matmul(p, c.x[2].repeat_interleave(R, 2).transpose(1, 2)).transpose(1, 2)), 1e-12);
}

// fp64 by the reference; differences through the masses, too.
TEST(ExactMass, GradientsByDifferences) {
  Random random(22, 311);
  for (const double alpha : {1.0, 0.3}) {
    const ExactMassCase c(random, 1, 9, 4, 2, 8, 4, 4, 3, 2, alpha);
    expect_differences(c.composed(), c.x, normal(random, {c.B, c.L, c.H, c.D}), random, c.text());
  }
}

// dS_n = P_n w_n (dP_n - (1 - alpha) <g,o_n> - alpha <g,o>), what the kernels compute in one go, is what autograd finds: as gradients of
// hsa whose log-sum-exps are given alpha w (<g,o_n> - <g,o>).
TEST(ExactMass, ClosedFormOfTheGradient) {
  Random random(23, 311);
  for (const double alpha : {1.0, 0.6, 0.1}) {
    const ExactMassCase c(random, 2, 30, 4, 2, 8, 5, 8, 4, 1, alpha);
    const at::Tensor g = normal(random, {c.B, c.L, c.H, c.D});
    const Outcome want = outcome(c.composed(), c.x, g, at::kDouble);
    const ExactMass m = hsa_exact_mass_composed(c.x[0], c.x[1], c.x[2], c.index, c.x[3], alpha, c.S);
    Tensors x;
    for (const at::Tensor& t : {c.x[0], c.x[1], c.x[2], m.weight}) x.push_back(t.detach().clone().requires_grad_(true));
    const HsaOutput out = hsa(x[0], x[1], x[2], c.index, x[3], c.S, false, true);
    const at::Tensor dots = torch::autograd::grad({out.o}, {x[3]}, {g}, /*retain_graph=*/true)[0];
    const at::Tensor grad_lse = alpha * m.weight * (dots - (g * m.o).sum(-1, true));
    const Tensors got = torch::autograd::grad({out.o, out.lse}, {x[0], x[1], x[2]}, {g, grad_lse});
    for (int i = 0; i < 3; ++i) EXPECT_LE(worst(got[i], want.grads[i]), 1e-12 * largest(want.grads[i])) << c.text() << " " << i;
  }
}

}  // namespace
}  // namespace cairn
