#include "cairn/ops/hsa/hsa.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <tuple>
#include <vector>

#include "cairn/core/error.h"
#include "cairn/core/random.h"
#include "cairn/ops/hsa/cuda.h"
#include "cairn/ops/hsa/kernel.h"
#include "cairn/ops/select/select.h"

namespace cairn {
namespace {

struct Case {
  int64_t B = 1, L = 64, H = 4, G = 1, D = 32, S = 16, N = 4, C = 4;
  int64_t Gi = 1, Hw = 1;
  bool off_by_one = false, want_lse = false;
  int64_t extra_keys = 0;  // M = C S + extra

  std::string text() const {
    return fmt::format("B {} L {} H {} G {} D {} S {} N {} C {} Gi {} Hw {} off {} lse {} extra {}", B, L, H, G, D, S, N, C, Gi, Hw,
                       off_by_one, want_lse, extra_keys);
  }
};

struct Inputs {
  at::Tensor q, k, v, index, weight, grad_o, grad_lse;
};

// Distinct random chunks for every row, a random number of slots unused.
at::Tensor random_index(Random& random, int64_t B, int64_t L, int64_t G, int64_t N, int64_t C) {
  const at::Tensor index = at::full({B, L, G, N}, -1, at::kLong);
  int64_t* p = index.mutable_data_ptr<int64_t>();
  for (int64_t row = 0; row < B * L * G; ++row, p += N) {
    std::vector<int64_t> picked = random.choose(C, random.below(std::min(N, C) + 1));
    std::sort(picked.rbegin(), picked.rend());
    std::copy(picked.begin(), picked.end(), p);
  }
  return index;
}

Inputs make_inputs(const Case& c, Random& random) {
  Inputs x;
  const int64_t M = c.C * c.S + c.extra_keys;
  x.q = at::randn({c.B, c.L, c.H, c.D}, at::kDouble);
  x.k = at::randn({c.B, M, c.G, c.D}, at::kDouble);
  x.v = at::randn({c.B, M, c.G, c.D}, at::kDouble);
  x.index = random_index(random, c.B, c.L, c.Gi, c.N, c.C);
  x.weight = at::rand({c.B, c.L, c.Hw, c.N}, at::kDouble);
  x.grad_o = at::randn({c.B, c.L, c.H, c.D}, at::kDouble);
  x.grad_lse = at::randn({c.B, c.L, c.H, c.N}, at::kDouble);
  return x;
}

using Path = HsaOutput (*)(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, int64_t, bool,
                           bool);

// Outputs and gradients of one path in one dtype, as fp64: o, lse, dq, dk, dv, dweight.
std::vector<at::Tensor> evaluate(Path path, const Case& c, const Inputs& x, at::ScalarType dtype) {
  const auto leaf = [&](const at::Tensor& t) { return t.to(dtype).clone().requires_grad_(true); };
  const at::Tensor q = leaf(x.q), k = leaf(x.k), v = leaf(x.v);
  const at::Tensor w = x.weight.to(dtype == at::kDouble ? at::kDouble : at::kFloat).clone().requires_grad_(true);
  const HsaOutput out = path(q, k, v, x.index, w, c.S, c.off_by_one, c.want_lse);
  at::Tensor loss = (out.o.to(at::kDouble) * x.grad_o).sum();
  if (c.want_lse) loss = loss + (out.lse.to(at::kDouble) * x.grad_lse).sum();
  const auto grads = torch::autograd::grad({loss}, {q, k, v, w}, {}, std::nullopt, false, /*allow_unused=*/true);
  std::vector<at::Tensor> all = {out.o, c.want_lse ? out.lse : at::zeros({1})};
  const at::Tensor leaves[] = {q, k, v, w};
  for (size_t i = 0; i < 4; ++i) all.push_back(grads[i].defined() ? grads[i] : at::zeros(leaves[i].sizes()));
  for (at::Tensor& t : all) t = t.detach().to(at::kDouble);
  return all;
}

const char* const kNames[] = {"o", "lse", "dq", "dk", "dv", "dweight"};

double worst(const at::Tensor& a, const at::Tensor& b) { return a.numel() == 0 ? 0.0 : (a - b).abs().max().item<double>(); }

void expect_close(const std::vector<at::Tensor>& got, const std::vector<at::Tensor>& want, double tolerance, const std::string& what) {
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(got[i].sizes(), want[i].sizes()) << kNames[i] << " " << what;
    if (got[i].numel() == 0) continue;
    const double scale = 1.0 + want[i].abs().max().item<double>();
    EXPECT_LE(worst(got[i], want[i]), tolerance * scale) << kNames[i] << " " << what;
    EXPECT_FALSE(got[i].isnan().any().item<bool>()) << kNames[i] << " " << what;
  }
}

Case random_case(Random& random) {
  const auto pick = [&](std::vector<int64_t> from) { return from[static_cast<size_t>(random.below(static_cast<int64_t>(from.size())))]; };
  Case c;
  const int64_t R = pick({1, 2, 4, 16});
  c.G = pick({1, 1, 2, 3});
  c.H = R * c.G;
  c.D = pick({16, 32, 64, 128, 8, 20});
  c.S = pick({8, 16, 32, 64, 5, 80});
  c.B = 1 + random.below(3);
  c.L = random.below(70);
  c.C = random.below(7);
  c.N = 1 + random.below(6);
  c.Gi = pick({1, c.G});
  c.Hw = pick({1, c.G, c.H});
  c.off_by_one = random.chance(0.3);
  c.want_lse = random.chance(0.5);
  c.extra_keys = random.chance(0.3) ? random.below(c.S) : 0;
  return c;
}

class HsaKernels : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    for (const auto* kernel : hsa_cpu::kernels()) {
      if (kernel->name == GetParam()) return hsa_cpu::use_kernel(GetParam());
    }
    GTEST_SKIP() << "this machine or build has no " << GetParam();
  }
  void TearDown() override { hsa_cpu::use_kernel(""); }
};

TEST_P(HsaKernels, MatchesReferenceOnRandomShapes) {
  Random random(7, 1);
  for (int i = 0; i < 16; ++i) {
    const Case c = random_case(random);
    const Inputs x = make_inputs(c, random);
    expect_close(evaluate(hsa, c, x, at::kFloat), evaluate(hsa_reference, c, x, at::kDouble), 4e-6,
                 fmt::format("case {}: {}", i, c.text()));
    if (HasFailure()) return;
  }
}

TEST_P(HsaKernels, Bf16IsNoWorseThanTheNaiveVersion) {
  Random random(7, 2);
  for (int i = 0; i < 8; ++i) {
    const Case c = random_case(random);
    Inputs x = make_inputs(c, random);
    for (at::Tensor* t : {&x.q, &x.k, &x.v, &x.grad_o}) *t = t->to(at::kBFloat16).to(at::kDouble);  // judge the computation, not the inputs
    x.weight = x.weight.to(at::kFloat).to(at::kDouble);
    const auto got = evaluate(hsa, c, x, at::kBFloat16), naive = evaluate(hsa_reference, c, x, at::kBFloat16);
    const auto truth = evaluate(hsa_reference, c, x, at::kDouble);
    for (size_t j = 0; j < got.size(); ++j) {
      if (truth[j].numel() == 0) continue;
      const double tiny = 1e-5 * (1 + truth[j].abs().max().item<double>());
      EXPECT_LE(worst(got[j], truth[j]), 2 * worst(naive[j], truth[j]) + tiny) << kNames[j] << " " << c.text();
    }
    if (HasFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(Hsa, HsaKernels, ::testing::Values("avx512", "avx2", "generic"), [](const auto& info) { return info.param; });

// A variable-length attention in plain operations with the habits of the real one: rows that belong to no part and keys that nobody asked
// for come back as NaN, lse is [h,P], and the backward uses what the forward handed over.
VarlenResult plain_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& cu_q, const at::Tensor& cu_k,
                           int64_t max_q, int64_t max_k) {
  const int64_t parts = cu_q.size(0) - 1, h = q.size(1), repeat = h / k.size(1);
  VarlenResult r{at::full(q.sizes(), std::nan(""), q.options()), at::full({h, q.size(0)}, std::nan(""), q.options()), {}, {}};
  EXPECT_EQ(cu_q.scalar_type(), at::kInt);
  EXPECT_EQ(cu_k.scalar_type(), at::kInt);
  EXPECT_EQ(cu_k.size(0), parts + 1);
  EXPECT_EQ(cu_k[parts].item<int64_t>(), k.size(0));
  EXPECT_GE(max_q, 2);
  for (int64_t i = 0; i < parts; ++i) {
    const int64_t a = cu_q[i].item<int64_t>(), n = cu_q[i + 1].item<int64_t>() - a, c = cu_k[i].item<int64_t>();
    EXPECT_LE(n, max_q);
    EXPECT_EQ(cu_k[i + 1].item<int64_t>() - c, max_k);
    if (n == 0) continue;
    const at::Tensor kk = k.narrow(0, c, max_k).repeat_interleave(repeat, 1), vv = v.narrow(0, c, max_k).repeat_interleave(repeat, 1);
    const at::Tensor s = q.narrow(0, a, n).transpose(0, 1).matmul(kk.permute({1, 2, 0})) / std::sqrt(static_cast<double>(q.size(2)));
    r.o.narrow(0, a, n).copy_(s.softmax(-1).matmul(vv.transpose(0, 1)).transpose(0, 1));
    r.lse.narrow(1, a, n).copy_(s.logsumexp(-1));
  }
  return r;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> plain_backward(const at::Tensor& g, const at::Tensor& q, const at::Tensor& k,
                                                              const at::Tensor& v, const VarlenResult& saved, const at::Tensor& cu_q,
                                                              const at::Tensor& cu_k, int64_t max_q, int64_t max_k) {
  const int64_t parts = cu_q.size(0) - 1, h = q.size(1), hk = k.size(1);
  const double scale = 1 / std::sqrt(static_cast<double>(q.size(2)));
  at::Tensor dq = at::full(q.sizes(), std::nan(""), q.options()), dk = at::full(k.sizes(), std::nan(""), q.options()), dv = dk.clone();
  for (int64_t i = 0; i < parts; ++i) {
    const int64_t a = cu_q[i].item<int64_t>(), n = cu_q[i + 1].item<int64_t>() - a, c = cu_k[i].item<int64_t>();
    if (n == 0) continue;
    const auto rows = [&](const at::Tensor& x) { return x.narrow(0, a, n).transpose(0, 1); };                                   // [h,n,D]
    const auto keys = [&](const at::Tensor& x) { return x.narrow(0, c, max_k).repeat_interleave(h / hk, 1).transpose(0, 1); };  // [h,S,D]
    const at::Tensor p = (rows(q).matmul(keys(k).transpose(1, 2)) * scale - saved.lse.narrow(1, a, n).unsqueeze(-1)).exp();
    const at::Tensor mean = (rows(g) * rows(saved.o)).sum(-1, true);
    const at::Tensor ds = p * (rows(g).matmul(keys(v).transpose(1, 2)) - mean) * scale;
    const auto heads = [&](const at::Tensor& x) { return x.view({hk, h / hk, max_k, x.size(2)}).sum(1).transpose(0, 1); };
    dq.narrow(0, a, n).copy_(ds.matmul(keys(k)).transpose(0, 1));
    dk.narrow(0, c, max_k).copy_(heads(ds.transpose(1, 2).matmul(rows(q))));
    dv.narrow(0, c, max_k).copy_(heads(p.transpose(1, 2).matmul(rows(g))));
  }
  return {dq, dk, dv};
}

constexpr VarlenEngine kPlainEngine = {plain_forward, plain_backward};

std::vector<at::Tensor> as_list(const at::Tensor& o, const at::Tensor& lse, const HsaGradients& d) {
  std::vector<at::Tensor> all = {o, lse.defined() ? lse : at::zeros({1}), d.q, d.k, d.v, d.weight};
  for (at::Tensor& t : all) t = t.to(at::kDouble);
  return all;
}

TEST(HsaCuda, PairsMatchReferenceWithAPlainEngine) {
  Random random(7, 3);
  for (int i = 0; i < 12; ++i) {
    Case c = random_case(random);
    c.off_by_one = c.want_lse = false;
    const Inputs x = make_inputs(c, random);
    const auto want = evaluate(hsa_reference, c, x, at::kDouble);
    const auto f = [](const at::Tensor& t) { return t.to(at::kFloat); };
    const BlockLimit limit{random.chance(0.5) ? int64_t{1} << 27 : c.H * c.D * c.N * (1 + random.below(2 * c.L + 1))};
    const at::Tensor o = hsa_pairs_forward(f(x.q), f(x.k), f(x.v), x.index, f(x.weight), c.S, kPlainEngine, limit);
    const HsaGradients d = hsa_pairs_backward(f(x.grad_o), f(x.q), f(x.k), f(x.v), x.index, f(x.weight), c.S, kPlainEngine, limit);
    expect_close(as_list(o, {}, d), want, 5e-6, fmt::format("case {}: {} limit {}", i, c.text(), limit.elements));
    if (HasFailure()) return;
  }
}

TEST(HsaCuda, DenseMatchesReference) {
  Random random(7, 4);
  for (int i = 0; i < 12; ++i) {
    const Case c = random_case(random);
    const Inputs x = make_inputs(c, random);
    const auto want = evaluate(hsa_reference, c, x, at::kDouble);
    const auto f = [](const at::Tensor& t) { return t.to(at::kFloat); };
    const BlockLimit limit{random.chance(0.5) ? int64_t{1} << 27 : 1 + random.below(c.H * (c.C * c.S + 1) * 20)};
    const HsaOutput out = hsa_dense_forward(f(x.q), f(x.k), f(x.v), x.index, f(x.weight), c.S, c.off_by_one, c.want_lse, limit);
    const HsaGradients d = hsa_dense_backward(f(x.grad_o), c.want_lse ? f(x.grad_lse) : at::Tensor(), f(x.q), f(x.k), f(x.v), x.index,
                                              f(x.weight), c.S, c.off_by_one, limit);
    expect_close(as_list(out.o, out.lse, d), want, 5e-6, fmt::format("case {}: {} limit {}", i, c.text(), limit.elements));
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace cairn
