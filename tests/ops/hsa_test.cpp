#include "cairn/ops/hsa/hsa.h"

#include <ATen/Context.h>
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
#include <cstdlib>
#include <cstring>
#include <string>
#include <tuple>
#include <vector>

#include "cairn/core/error.h"
#include "cairn/core/files.h"
#include "cairn/core/random.h"
#include "cairn/core/safetensors.h"
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

TEST(Hsa, NothingSelectedIsExactlyZero) {
  for (const Case& c : {Case{.L = 0}, Case{.C = 0}, Case{.L = 5, .C = 0, .extra_keys = 3}, Case{.L = 9}, Case{.N = 0}}) {
    Random random(1);
    Inputs x = make_inputs(c, random);
    x.index.fill_(-1);
    x.weight.fill_(std::nan(""));  // what stands in unused slots is nobody's business
    for (const Path path : {Path(hsa), Path(hsa_reference)}) {
      const auto all = evaluate(path, c, x, at::kFloat);
      for (size_t i = 0; i < all.size(); ++i) {
        EXPECT_EQ(all[i].abs().sum().item<double>(), 0.0) << kNames[i] << " " << c.text();
      }
    }
  }
}

TEST(Hsa, OneChunkThatEveryTokenWants) {
  Case c{.B = 2, .L = 300, .H = 8, .D = 32, .S = 32, .N = 1, .C = 6, .want_lse = true};
  Random random(5);
  Inputs x = make_inputs(c, random);
  x.index.fill_(4);
  expect_close(evaluate(hsa, c, x, at::kFloat), evaluate(hsa_reference, c, x, at::kDouble), 4e-6, c.text());
}

TEST(Hsa, LargeScoresStayFinite) {
  // The same numbers whatever ran before: a score of 2e5 is known to 1/64, so where the two best keys of a token happen to lie close
  // together (3 draws of 100) two ways of computing them differ by more than what is asked below.
  at::manual_seed(6);
  Case c{.L = 40, .want_lse = true};
  Random random(6);
  Inputs x = make_inputs(c, random);
  x.q = x.q * 200, x.k = x.k * 200;  // scores of +-2e5: one key takes all
  const auto got = evaluate(hsa, c, x, at::kFloat), want = evaluate(hsa_reference, c, x, at::kFloat);
  for (size_t i = 0; i < got.size(); ++i) EXPECT_FALSE(got[i].isnan().any().item<bool>()) << kNames[i];
  EXPECT_LE(worst(got[0], want[0]), 1e-3);
}

TEST(Hsa, NanIsNotSwallowed) {
  Case c{.L = 20};
  Random random(6);
  Inputs x = make_inputs(c, random);
  x.index.fill_(-1);
  x.index.select(3, 0).fill_(2);
  x.q[0][7][1].fill_(std::nan(""));
  const at::Tensor o = evaluate(hsa, c, x, at::kFloat)[0];
  EXPECT_TRUE(o[0][7][1].isnan().all().item<bool>());
  EXPECT_FALSE(o[0][7][0].isnan().any().item<bool>());
  EXPECT_FALSE(o[0][8].isnan().any().item<bool>());
}

// Spans of the backward (several for this length) and any number of threads: the same bits.
TEST(Hsa, RunsAreBitEqual) {
  const Case c{.B = 2, .L = 400, .H = 16, .D = 64, .S = 16, .N = 6, .C = 20, .want_lse = true};
  Random random(9);
  const Inputs x = make_inputs(c, random);
  const int threads = at::get_num_threads();
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const auto first = evaluate(hsa, c, x, dtype);
    for (const int n : {threads, 1, 3}) {
      at::set_num_threads(n);
      const auto again = evaluate(hsa, c, x, dtype);
      for (size_t i = 0; i < first.size(); ++i) EXPECT_TRUE(again[i].equal(first[i])) << kNames[i] << " with " << n << " threads";
    }
    at::set_num_threads(threads);
  }
}

// A row of a batch is the row alone, and a segment of the rows is that segment: forward bit for bit.
TEST(Hsa, RowsDoNotDependOnTheirNeighbours) {
  const Case c{.B = 3, .L = 130, .H = 4, .D = 32, .S = 16, .N = 3, .C = 7};
  Random random(10);
  const Inputs x = make_inputs(c, random);
  const auto f = [](const at::Tensor& t) { return t.to(at::kFloat); };
  const at::Tensor whole = hsa(f(x.q), f(x.k), f(x.v), x.index, f(x.weight), c.S).o;
  const auto part = [](const at::Tensor& t) { return t.narrow(0, 1, 1); };
  const auto rows = [](const at::Tensor& t) { return t.narrow(0, 1, 1).narrow(1, 77, 31); };
  const at::Tensor piece = hsa(f(rows(x.q)), f(part(x.k)), f(part(x.v)), rows(x.index), f(rows(x.weight)), c.S).o;
  EXPECT_TRUE(piece.equal(rows(whole)));
}

TEST(Hsa, ReferenceGradientsAgreeWithFiniteDifferences) {
  Random random(11);
  for (const bool off : {false, true}) {
    const Case c{.B = 1, .L = 5, .H = 4, .G = 2, .D = 8, .S = 4, .N = 2, .C = 3, .Gi = 2, .Hw = 4, .off_by_one = off, .want_lse = true};
    Inputs x = make_inputs(c, random);
    const auto grads = evaluate(hsa_reference, c, x, at::kDouble);
    const auto loss = [&] {
      const HsaOutput out = hsa_reference(x.q, x.k, x.v, x.index, x.weight, c.S, c.off_by_one, true);
      return (out.o * x.grad_o).sum().item<double>() + (out.lse * x.grad_lse).sum().item<double>();
    };
    at::Tensor* const inputs[] = {&x.q, &x.k, &x.v, &x.weight};
    for (size_t i = 0; i < 4; ++i) {
      double* p = inputs[i]->mutable_data_ptr<double>();
      const at::Tensor grad = grads[i + 2].contiguous();
      for (int trial = 0; trial < 12; ++trial) {
        const int64_t at = random.below(inputs[i]->numel());
        const double h = 1e-5, old = p[at];
        p[at] = old + h;
        const double up = loss();
        p[at] = old - h;
        const double down = loss();
        p[at] = old;
        EXPECT_NEAR((up - down) / (2 * h), grad.const_data_ptr<double>()[at], 1e-6) << kNames[i + 2] << " " << at;
      }
    }
  }
}

TEST(Hsa, CheckIndexNamesTheMistake) {
  const at::Tensor index = at::full({1, 3, 1, 3}, -1, at::kLong);
  check_index(index, 4);
  index[0][1][0][0] = 3, index[0][1][0][1] = 0;
  check_index(index, 4);
  const auto message = [&](int64_t chunks) -> std::string {
    try {
      check_index(index, chunks);
    } catch (const UserError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_NE(message(3).find("chunk 3"), std::string::npos);
  index[0][1][0][2] = 3;
  EXPECT_NE(message(4).find("chunk 3 twice in row [b 0, t 1, group 0]"), std::string::npos) << message(4);
  index[0][2][0][0] = -2;
  EXPECT_NE(message(4).find("-2"), std::string::npos);
}

// |a - b| <= absolute + relative |b| everywhere.
void expect_agrees(const at::Tensor& got, const at::Tensor& want, double absolute, double relative, const std::string& what) {
  ASSERT_EQ(got.sizes(), want.sizes()) << what;
  const at::Tensor a = got.detach().to(at::kDouble), b = want.to(at::kDouble);
  EXPECT_TRUE(((a - b).abs() <= absolute + relative * b.abs()).all().item<bool>()) << what << ": worst " << worst(a, b);
}

TEST(Hsa, AgreesWithTheOracle) {
  const fs::path folder = fs::path(CAIRN_SOURCE_DIR) / ".." / "shared" / "oracle" / "cases";
  if (!fs::exists(folder)) GTEST_SKIP() << "no oracle cases beside the checkout (../shared/oracle/cases)";
  int cases = 0;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("hsa-")) continue;
    ++cases;
    const SafetensorsFile file(entry.path());
    const auto read = [&](const std::string& key) {
      const TensorInfo& info = file.info(key);
      const at::Tensor t = at::empty(info.shape, info.dtype == Dtype::kI64 ? at::kLong : at::kFloat);
      const auto bytes = file.data(key);
      if (!bytes.empty()) std::memcpy(t.mutable_data_ptr(), bytes.data(), bytes.size());
      return t;
    };
    const std::string& config = file.metadata().at("config");
    const auto has = [&](const std::string& text) { return config.find(text) != std::string::npos; };
    const size_t at = config.find("\"S\": ");
    ASSERT_NE(at, std::string::npos) << config;
    Visibility visibility;
    visibility.chunk = std::stoll(config.substr(at + 5));
    const bool off = has("\"off_by_one\": true");

    const at::Tensor q = read("in.q").requires_grad_(true), k = read("in.k").requires_grad_(true), v = read("in.v").requires_grad_(true);
    const at::Tensor score = read("in.score").requires_grad_(true), index = read("in.index");
    EXPECT_TRUE(select_from_scores(score, index.size(3), visibility).index.equal(index)) << name;
    const at::Tensor used = index.ge(0), s = score.gather(-1, index.clamp_min(0));
    const at::Tensor weight = has("stick_breaking") ? stick_breaking_weights(s, used) : softmax_weights(s, used);
    expect_agrees(weight, read("in.weight"), 2e-5, 1e-4, name + " weight");
    for (const Path path : {Path(hsa), Path(hsa_reference)}) {
      const HsaOutput out = path(q, k, v, index, weight, visibility.chunk, off, true);
      expect_agrees(out.o, read("out.o"), 2e-5, 1e-4, name + " o");
      expect_agrees(out.lse, read("out.lse"), 2e-5, 1e-4, name + " lse");
      const auto grads = torch::autograd::grad({out.o}, {q, k, v, weight, score}, {read("in.cotangent")}, /*retain_graph=*/true);
      const char* const names[] = {"grad.q", "grad.k", "grad.v", "grad.weight", "grad.score"};
      for (size_t i = 0; i < 5; ++i) expect_agrees(grads[i], read(names[i]), 1e-4, 1e-3, name + " " + names[i]);
    }
  }
  EXPECT_GT(cases, 0);
}

TEST(HsaCuda, OnTheDevice) {
  const char* device = std::getenv("CAIRN_TEST_DEVICE");
  if (device == nullptr || std::string(device) != "cuda") GTEST_SKIP() << "CAIRN_TEST_DEVICE is not cuda";
  if (!at::globalContext().hasCUDA()) GTEST_SKIP() << "this program or machine has no CUDA";
  Random random(7, 5);
  for (int i = 0; i < 60; ++i) {
    Case c = random_case(random);
    c.L = std::max<int64_t>(c.L, i % 7 == 0 ? 1 : 2);
    Inputs x = make_inputs(c, random);
    for (at::Tensor* t : {&x.q, &x.k, &x.v, &x.grad_o}) *t = t->to(at::kBFloat16).to(at::kDouble);
    const auto truth = evaluate(hsa_reference, c, x, at::kDouble);
    Inputs y = x;
    for (at::Tensor* t : {&y.q, &y.k, &y.v, &y.index, &y.weight, &y.grad_o, &y.grad_lse}) *t = t->to(at::kCUDA);
    const auto on_host = [](std::vector<at::Tensor> all) {
      for (at::Tensor& t : all) t = t.cpu();
      return all;
    };
    expect_close(on_host(evaluate(hsa, c, y, at::kFloat)), truth, 2e-5, "fp32 " + c.text());
    // The flash attention rounds each chunk's output and its gradients to bf16 before they are summed: a few bf16 steps of the largest
    // value.
    expect_close(on_host(evaluate(hsa, c, y, at::kBFloat16)), truth, 3e-2, "bf16 " + c.text());
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace cairn
