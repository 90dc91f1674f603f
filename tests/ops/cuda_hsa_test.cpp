// The kernels of memory attention against the equation in fp64 and against the same equation with every operation in bf16.
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "cairn/core/random.h"
#include "cairn/ops/cuda/kernels.h"
#include "cairn/ops/hsa/hsa.h"

namespace cairn {
namespace {

// The kernels use Hopper's own instructions; elsewhere, and where PTX is forced, the plain path serves.
bool this_gpu_has_code() {
  const at::Tensor x = at::zeros({1, 16, 1, 64}, at::TensorOptions(at::kCUDA).dtype(at::kBFloat16));
  const at::Tensor index = at::zeros({1, 16, 1, 1}, at::TensorOptions(at::kCUDA).dtype(at::kLong));
  return cuda_kernels()->hsa_supports(x, x, index, x.narrow(3, 0, 1), 16, false, false);
}

#define CAIRN_NEED_KERNELS()                                                                                     \
  if (!at::globalContext().hasCUDA()) GTEST_SKIP() << "no GPU here";                                             \
  if (cuda_kernels() == nullptr || cuda_kernels()->hsa_forward == nullptr) GTEST_SKIP() << "built without CUDA"; \
  if (!this_gpu_has_code()) GTEST_SKIP() << "the kernels of memory attention need compute capability 9.0 and sm_90a code"

struct Case {
  int64_t B = 1, L = 64, H = 16, G = 1, D = 64, S = 64, N = 4, C = 4;
  int64_t Gi = 1, Hw = 1;
  bool off_by_one = false, want_lse = false, weight_bf16 = false;
  int64_t extra_keys = 0;  // M = C S + extra

  std::string text() const {
    return fmt::format("B {} L {} H {} G {} D {} S {} N {} C {} Gi {} Hw {} off {} lse {} weight bf16 {} extra {}", B, L, H, G, D, S, N, C,
                       Gi, Hw, off_by_one, want_lse, weight_bf16, extra_keys);
  }
};

// fp64 on the GPU, values that bf16 holds.
struct Inputs {
  at::Tensor q, k, v, index, weight, grad_o, grad_lse;
};

// Distinct random chunks for every row, a random number of slots unused, unused ones anywhere.
at::Tensor random_index(Random& random, int64_t B, int64_t L, int64_t G, int64_t N, int64_t C) {
  const at::Tensor index = at::full({B, L, G, N}, -1, at::kLong);
  int64_t* p = index.mutable_data_ptr<int64_t>();
  for (int64_t row = 0; row < B * L * G; ++row, p += N) {
    const std::vector<int64_t> picked = random.choose(C, random.below(std::min(N, C) + 1));
    const std::vector<int64_t> places = random.choose(N, static_cast<int64_t>(picked.size()));
    for (size_t i = 0; i < picked.size(); ++i) p[places[i]] = picked[i];
  }
  return index.to(at::kCUDA);
}

Inputs make_inputs(const Case& c, Random& random) {
  const auto real = [](at::IntArrayRef sizes) {
    return at::randn(sizes, at::TensorOptions(at::kCUDA).dtype(at::kBFloat16)).to(at::kDouble);
  };
  const int64_t M = c.C * c.S + c.extra_keys;
  Inputs x;
  x.q = real({c.B, c.L, c.H, c.D}), x.grad_o = real({c.B, c.L, c.H, c.D}), x.grad_lse = real({c.B, c.L, c.H, c.N});
  x.k = real({c.B, M, c.G, c.D}), x.v = real({c.B, M, c.G, c.D});
  x.index = random_index(random, c.B, c.L, c.Gi, c.N, c.C);
  x.weight = at::rand({c.B, c.L, c.Hw, c.N}, at::TensorOptions(at::kCUDA)).to(at::kBFloat16).to(at::kDouble);
  return x;
}

using Path = HsaOutput (*)(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, int64_t, bool,
                           bool);

// hsa_reference with every operation in the operands' dtype.
HsaOutput naive(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& index, const at::Tensor& weight, int64_t S,
                bool off_by_one, bool want_lse) {
  const int64_t B = q.size(0), L = q.size(1), H = q.size(2), G = k.size(2), R = H / G, D = q.size(3), N = index.size(3), C = k.size(1) / S;
  const at::Tensor idx = index.expand({B, L, G, N}), used = idx.ge(0).unsqueeze(-1);
  const at::Tensor base = at::arange(B * G, index.options()).mul(C).view({B, 1, G, 1}), row = (idx.clamp_min(0) + base).flatten();
  const auto chunks_of = [&](const at::Tensor& m) {
    const at::Tensor table = m.narrow(1, 0, C * S).view({B, C, S, G, D}).permute({0, 3, 1, 2, 4}).reshape({B * G * C, S * D});
    return table.index_select(0, row).view({B, L, G, N, S, D});
  };
  at::Tensor s = at::matmul(q.reshape({B, L, G, 1, R, D}), chunks_of(k).transpose(-1, -2)) / std::sqrt(static_cast<double>(D));
  const at::Tensor top = off_by_one ? s.amax(-1, true).clamp_min(0).detach() : s.amax(-1, true).detach();
  const at::Tensor e = (s - top).exp();
  const at::Tensor sum = off_by_one ? e.sum(-1, true) + (-top).exp() : e.sum(-1, true);
  const at::Tensor o_n = at::matmul(e / sum, chunks_of(v));
  at::Tensor w = weight.to(q.scalar_type());
  w = weight.size(2) == H ? w.reshape({B, L, G, R, N}) : w.unsqueeze(3).expand({B, L, G, R, N});
  w = at::where(used, w.transpose(3, 4), at::zeros({}, w.options()));
  HsaOutput out;
  out.o = (w.unsqueeze(-1) * o_n).sum(3).reshape({B, L, H, D});
  if (want_lse) {
    const at::Tensor lse = (sum.log() + top).squeeze(-1);
    out.lse = at::where(used, lse, at::zeros({}, lse.options())).transpose(3, 4).reshape({B, L, H, N});
  }
  return out;
}

const char* const kNames[] = {"o", "lse", "dq", "dk", "dv", "dweight"};

// Outputs and gradients of one path in one dtype: o, lse, dq, dk, dv, dweight.
std::vector<at::Tensor> evaluate(Path path, const Case& c, const Inputs& x, at::ScalarType type) {
  const auto leaf = [](const at::Tensor& t, at::ScalarType as) { return t.to(as).clone().requires_grad_(true); };
  const at::Tensor q = leaf(x.q, type), k = leaf(x.k, type), v = leaf(x.v, type);
  const at::Tensor w = leaf(x.weight, type == at::kDouble ? at::kDouble : c.weight_bf16 ? at::kBFloat16 : at::kFloat);
  const HsaOutput out = path(q, k, v, x.index, w, c.S, c.off_by_one, c.want_lse);
  std::vector<at::Tensor> results = {out.o}, cotangents = {x.grad_o.to(out.o.scalar_type())};
  if (c.want_lse) results.push_back(out.lse), cotangents.push_back(x.grad_lse.to(out.lse.scalar_type()));
  const auto grads = torch::autograd::grad(results, {q, k, v, w}, cotangents);
  std::vector<at::Tensor> all = {out.o.detach(), c.want_lse ? out.lse.detach() : at::zeros({1}, q.options())};
  for (const at::Tensor& grad : grads) all.push_back(grad.detach());
  return all;
}

double worst(const at::Tensor& a, const at::Tensor& b) {
  return a.numel() == 0 ? 0.0 : (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

// The forward in the order named (ops/hsa/cuda/plan.h) where that is possible, as long as this lives.
class InOrder {
 public:
  explicit InOrder(const char* order) { setenv("CAIRN_HSA_ORDER", order, 1); }
  ~InOrder() { unsetenv("CAIRN_HSA_ORDER"); }
  InOrder(const InOrder&) = delete;
  InOrder& operator=(const InOrder&) = delete;
};
const char* const kOrders[] = {"row", "chunk", "union"};

void expect_accurate(const Case& c, const Inputs& x, const std::string& case_text) {
  const auto rough = evaluate(naive, c, x, at::kBFloat16), want = evaluate(hsa_reference, c, x, at::kDouble);
  for (const char* order : kOrders) {
    const InOrder in_order(order);
    const std::string what = fmt::format("{} in {} order", case_text, order);
    const auto got = evaluate(hsa, c, x, at::kBFloat16);
    for (size_t i = 0; i < got.size(); ++i) {
      ASSERT_EQ(got[i].sizes(), want[i].sizes()) << kNames[i] << " " << what;
      if (want[i].numel() == 0) continue;
      EXPECT_FALSE(got[i].isnan().any().item<bool>()) << kNames[i] << " " << what;
      const double tiny = 1e-5 * (1 + want[i].abs().max().item<double>());
      EXPECT_LE(worst(got[i], want[i]), 2 * worst(rough[i], want[i]) + tiny) << kNames[i] << " " << what;
    }
  }
}

bool by_kernels(const Case& c, const Inputs& x) {
  return cuda_kernels()->hsa_supports(x.q.to(at::kBFloat16), x.k, x.index, x.weight, c.S, c.off_by_one, c.want_lse);
}

Case random_case(Random& random) {
  const auto pick = [&](std::vector<int64_t> from) { return from[static_cast<size_t>(random.below(static_cast<int64_t>(from.size())))]; };
  Case c;
  c.G = pick({1, 1, 2, 3});
  c.H = c.G * pick({1, 2, 3, 4, 8, 12, 16, 16, 32, 64});
  c.D = pick({32, 64, 64, 96, 128});
  c.S = pick({16, 32, 48, 64, 64, 80, 112, 128});
  c.B = 1 + random.below(3);
  c.L = 1 + random.below(90);
  c.C = 1 + random.below(12);
  c.N = 1 + random.below(10);
  c.Gi = pick({1, c.G});
  c.Hw = pick({1, c.G, c.H});
  c.off_by_one = random.chance(0.3), c.want_lse = random.chance(0.5), c.weight_bf16 = random.chance(0.3);
  c.extra_keys = random.chance(0.3) ? random.below(c.S) : 0;
  return c;
}

TEST(CudaHsa, ErrorIsAtMostTwiceThatOfPlainBf16) {
  CAIRN_NEED_KERNELS();
  at::globalContext().setDeterministicAlgorithms(false, false);
  Random random(31, 1);
  for (int i = 0; i < 60; ++i) {
    const Case c = random_case(random);
    const Inputs x = make_inputs(c, random);
    EXPECT_TRUE(by_kernels(c, x)) << c.text();
    expect_accurate(c, x, fmt::format("case {}: {}", i, c.text()));
    if (HasFailure()) return;
  }
}

// What memory held before must not matter: every number that comes out was written.
TEST(CudaHsa, WritesEverything) {
  CAIRN_NEED_KERNELS();
  Random random(31, 2);
  Case c;
  c.L = 200, c.C = 9, c.N = 3, c.extra_keys = 13;
  Inputs x = make_inputs(c, random);
  x.index.masked_fill_(x.index.eq(4), -1);  // nobody selects chunk 4
  for (const char* order : kOrders) {
    const InOrder in_order(order);
    std::vector<std::vector<at::Tensor>> runs;
    for (const double fill : {std::nan(""), 3.0e38, 0.0}) {
      { const at::Tensor poison = at::full({int64_t{1} << 26}, fill, at::TensorOptions(at::kCUDA).dtype(at::kFloat)); }
      runs.push_back(evaluate(hsa, c, x, at::kBFloat16));
      for (size_t i = 0; i < runs[0].size(); ++i) {
        if (i == 3 || i == 4) {  // sums in any order
          EXPECT_LE(worst(runs.back()[i], runs[0][i]), 0.02 * runs[0][i].abs().max().item<double>()) << kNames[i] << " after " << fill;
          EXPECT_EQ(runs.back()[i].narrow(1, 4 * c.S, c.S).abs().max().item<double>(), 0)
              << kNames[i] << " of a chunk that nobody selected";
          EXPECT_EQ(runs.back()[i].narrow(1, c.C * c.S, 13).abs().max().item<double>(), 0) << kNames[i] << " beyond the last chunk";
        } else {
          EXPECT_TRUE(at::equal(runs.back()[i], runs[0][i])) << kNames[i] << " after " << fill;
        }
      }
    }
  }
}

TEST(CudaHsa, DeterministicModeRepeatsBitForBit) {
  CAIRN_NEED_KERNELS();
  Random random(31, 3);
  at::globalContext().setDeterministicAlgorithms(true, false);
  for (int i = 0; i < 10; ++i) {
    Case c = random_case(random);
    c.L = 40 + random.below(800);
    const Inputs x = make_inputs(c, random);
    const auto first = evaluate(hsa, c, x, at::kBFloat16);
    for (int again = 0; again < 4; ++again) {
      const auto next = evaluate(hsa, c, x, at::kBFloat16);
      for (size_t j = 0; j < first.size(); ++j) EXPECT_TRUE(at::equal(first[j], next[j])) << kNames[j] << " " << c.text();
    }
    expect_accurate(c, x, c.text());
    if (HasFailure()) break;
  }
  at::globalContext().setDeterministicAlgorithms(false, false);
}

TEST(CudaHsa, NothingToAttendTo) {
  CAIRN_NEED_KERNELS();
  Random random(31, 4);
  for (const auto& [L, C, N] : std::vector<std::array<int64_t, 3>>{{0, 3, 2}, {5, 0, 2}, {5, 3, 0}, {1, 3, 2}}) {
    Case c;
    c.L = L, c.C = C, c.N = N, c.extra_keys = 7, c.want_lse = true;
    Inputs x = make_inputs(c, random);
    x.index.fill_(-1);
    const auto got = evaluate(hsa, c, x, at::kBFloat16);
    EXPECT_EQ(got[0].sizes().vec(), (std::vector<int64_t>{1, L, 16, 64}));
    EXPECT_EQ(got[1].sizes().vec(), (std::vector<int64_t>{1, L, 16, N}));
    for (size_t i = 0; i < got.size(); ++i) {
      if (got[i].numel() > 0) {
        EXPECT_EQ(got[i].abs().max().item<double>(), 0) << kNames[i] << " L " << L << " C " << C << " N " << N;
      }
    }
  }
}

// Operands as views: heads before tokens, k and v out of one tensor, a batch that is one sequence repeated, odd offsets.
TEST(CudaHsa, TakesStridedOperands) {
  CAIRN_NEED_KERNELS();
  Random random(31, 5);
  Case c;
  c.B = 2, c.L = 33, c.H = 8, c.G = 2, c.Hw = 8, c.C = 5;
  const Inputs x = make_inputs(c, random);
  const auto low = [](const at::Tensor& t) { return t.to(at::kBFloat16); };
  const at::Tensor q = low(x.q), k = low(x.k), v = low(x.v), w = x.weight.to(at::kFloat);
  const at::Tensor want = hsa(q, k, v, x.index, w, c.S).o;
  const at::Tensor q_view = q.transpose(1, 2).contiguous().transpose(1, 2);
  at::Tensor joint = at::zeros({c.B, k.size(1), 3 * c.G, c.D}, k.options());
  joint.narrow(2, c.G, c.G).copy_(k), joint.narrow(2, 2 * c.G, c.G).copy_(v);
  EXPECT_TRUE(at::equal(hsa(q_view, joint.narrow(2, c.G, c.G), joint.narrow(2, 2 * c.G, c.G), x.index, w, c.S).o, want));
  at::Tensor odd = at::zeros({c.B, c.L, c.H, c.D + 3}, q.options());
  odd.narrow(3, 3, c.D).copy_(q);
  EXPECT_TRUE(at::equal(hsa(odd.narrow(3, 3, c.D), k, v, x.index.transpose(1, 3).contiguous().transpose(1, 3), w, c.S).o, want));
  const auto repeated = [&](const at::Tensor& t) { return t.narrow(0, 0, 1).expand({2, t.size(1), t.size(2), t.size(3)}); };
  const at::Tensor twice = hsa(repeated(q), repeated(k), repeated(v), repeated(x.index), repeated(w), c.S).o;
  EXPECT_TRUE(at::equal(twice[1], want[0]));
}

// Many blocks of rows and a ring that is used again and again: the same numbers as from short pieces of the rows. With one head a K/V head
// items are longer than what their producer looks at together.
TEST(CudaHsa, LongSequencesEqualTheirPieces) {
  CAIRN_NEED_KERNELS();
  Random random(31, 6);
  for (const auto& [G, order] :
       std::vector<std::pair<int64_t, const char*>>{{1, "chunk"}, {4, "chunk"}, {8, "chunk"}, {16, "chunk"}, {1, "union"}, {2, "union"}}) {
    const InOrder in_order(order);
    Case c;
    c.L = 90000, c.C = 300, c.N = 8, c.H = 16, c.G = G, c.Hw = 16, c.S = 32;
    const at::TensorOptions bf16 = at::TensorOptions(at::kCUDA).dtype(at::kBFloat16);
    const at::Tensor q = at::randn({1, c.L, c.H, c.D}, bf16), g = at::randn({1, c.L, c.H, c.D}, bf16);
    const at::Tensor k = at::randn({1, c.C * c.S, G, c.D}, bf16), v = at::randn({1, c.C * c.S, G, c.D}, bf16);
    const at::Tensor index = random_index(random, 1, c.L, 1, c.N, c.C);
    const at::Tensor w = at::rand({1, c.L, c.Hw, c.N}, at::TensorOptions(at::kCUDA));
    const CudaKernels& kernels = *cuda_kernels();
    const at::Tensor o = kernels.hsa_forward(q, k, v, index, w, c.S, false, false).o;
    const HsaGradients all = kernels.hsa_backward(g, {}, q, k, v, index, w, c.S, false);
    at::Tensor dk = at::zeros(k.sizes(), k.options().dtype(at::kFloat)), dv = at::zeros_like(dk);
    for (int64_t t = 0; t < c.L; t += 9000) {
      const auto cut = [&](const at::Tensor& x) { return x.narrow(1, t, 9000); };
      EXPECT_TRUE(at::equal(kernels.hsa_forward(cut(q), k, v, cut(index), cut(w), c.S, false, false).o, cut(o))) << "row " << t;
      const HsaGradients part = kernels.hsa_backward(cut(g), {}, cut(q), k, v, cut(index), cut(w), c.S, false);
      EXPECT_TRUE(at::equal(part.q, cut(all.q))) << "row " << t;
      EXPECT_TRUE(at::equal(part.weight, cut(all.weight))) << "row " << t;
      dk += part.k, dv += part.v;
    }
    EXPECT_LE(worst(all.k, dk), 0.01 * dk.abs().max().item<double>());
    EXPECT_LE(worst(all.v, dv), 0.01 * dv.abs().max().item<double>());
  }
}

// So many runs that their sums are not kept one by one: additions take turns.
TEST(CudaHsa, DeterministicModeRepeatsBitForBitOverLongSequences) {
  CAIRN_NEED_KERNELS();
  Random random(31, 8);
  const CudaKernels& kernels = *cuda_kernels();
  for (const auto& [L, N] : std::vector<std::array<int64_t, 2>>{{9000, 8}, {66000, 32}}) {
    Case c;
    c.L = L, c.C = 500, c.N = N, c.S = 32;
    const at::TensorOptions bf16 = at::TensorOptions(at::kCUDA).dtype(at::kBFloat16);
    const at::Tensor q = at::randn({1, c.L, c.H, c.D}, bf16), g = at::randn({1, c.L, c.H, c.D}, bf16);
    const at::Tensor k = at::randn({1, c.C * c.S, 1, c.D}, bf16), v = at::randn({1, c.C * c.S, 1, c.D}, bf16);
    const at::Tensor index = random_index(random, 1, c.L, 1, c.N, c.C), w = at::rand({1, c.L, 1, c.N}, at::TensorOptions(at::kCUDA));
    const auto run = [&](bool deterministic) {
      at::globalContext().setDeterministicAlgorithms(deterministic, false);
      HsaGradients d = kernels.hsa_backward(g, {}, q, k, v, index, w, c.S, false);
      at::globalContext().setDeterministicAlgorithms(false, false);
      return d;
    };
    const HsaGradients first = run(true), free = run(false);
    for (int again = 0; again < 3; ++again) {
      const HsaGradients next = run(true);
      EXPECT_TRUE(at::equal(first.k, next.k)) << L;
      EXPECT_TRUE(at::equal(first.v, next.v)) << L;
    }
    EXPECT_TRUE(at::equal(first.q, free.q)) << L;
    EXPECT_TRUE(at::equal(first.weight, free.weight)) << L;
    EXPECT_LE(worst(first.k, free.k), 0.01 * first.k.abs().max().item<double>()) << L;
    EXPECT_LE(worst(first.v, free.v), 0.01 * first.v.abs().max().item<double>()) << L;
  }
}

// Left to itself the forward takes union order where neighbours choose alike, chunk order where they do not; lists that are not full, a
// batch, groups that choose for themselves.
TEST(CudaHsa, OrderFollowsTheSelection) {
  CAIRN_NEED_KERNELS();
  Random random(31, 9);
  const CudaKernels& kernels = *cuda_kernels();
  for (const bool alike : {true, false}) {
    Case c;
    c.B = 2, c.L = 3000, c.C = 400, c.N = 8, c.H = 16, c.G = 2, c.Gi = 2, c.S = 32;  // 8 heads a group: the GPU is asked
    const at::TensorOptions bf16 = at::TensorOptions(at::kCUDA).dtype(at::kBFloat16);
    const at::Tensor q = at::randn({c.B, c.L, c.H, c.D}, bf16), k = at::randn({c.B, c.C * c.S, c.G, c.D}, bf16),
                     v = at::randn({c.B, c.C * c.S, c.G, c.D}, bf16), w = at::rand({c.B, c.L, 1, c.N}, at::TensorOptions(at::kCUDA));
    at::Tensor index = random_index(random, c.B, c.L, c.Gi, c.N, c.C);
    if (alike) index = index.slice(1, 0, c.L, 20).repeat_interleave(20, 1).contiguous();
    const auto forward = [&] { return kernels.hsa_forward(q, k, v, index, w, c.S, false, true); };
    const auto forward_in = [&](const char* order) {
      const InOrder in_order(order);
      return forward();
    };
    const HsaOutput itself = forward(), chunk = forward_in("chunk"), in_union = forward_in("union");
    EXPECT_TRUE(at::equal(itself.o, alike ? in_union.o : chunk.o)) << alike;
    EXPECT_FALSE(at::equal(chunk.o, in_union.o)) << "they round differently";
    EXPECT_LE(worst(chunk.o, in_union.o), 0.02) << alike;
    EXPECT_LE(worst(chunk.lse, in_union.lse), 1e-4) << alike;
  }
}

TEST(CudaHsa, RefusesWhatItCannotAndLeavesItToThePlainPath) {
  CAIRN_NEED_KERNELS();
  Random random(31, 7);
  Case c;
  c.D = 40, c.L = 20, c.S = 16;
  const Inputs x = make_inputs(c, random);
  EXPECT_FALSE(by_kernels(c, x));
  EXPECT_FALSE(cuda_kernels()->hsa_supports(x.q.to(at::kFloat), x.k, x.index, x.weight, c.S, false, false));
  const auto got = evaluate(hsa, c, x, at::kFloat), want = evaluate(hsa_reference, c, x, at::kDouble);
  for (size_t i = 0; i < got.size(); ++i) EXPECT_LE(worst(got[i], want[i]), 1e-3 * (1 + want[i].abs().max().item<double>())) << kNames[i];
}

}  // namespace
}  // namespace cairn
