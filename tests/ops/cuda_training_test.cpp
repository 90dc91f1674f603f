// What only training steps use, by the kernels: a residual sum with its norm, the choice of chunks from given scores, scores of bf16
// operands, and the route loss's sums; against the plain paths.
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/split_with_sizes.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>

#include "cairn/ops/cross_entropy/cross_entropy.h"
#include "cairn/ops/cuda/kernels.h"
#include "cairn/ops/norm/norm.h"
#include "cairn/ops/norm/parts.h"
#include "cairn/ops/rotary/rotary.h"
#include "cairn/ops/route/route.h"
#include "cairn/ops/select/select.h"
#include "ops/compare.h"

namespace cairn {
namespace {

using namespace testing;

class CudaTraining : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!at::globalContext().hasCUDA()) GTEST_SKIP() << "no GPU here";
    if (cuda_kernels() == nullptr || cuda_kernels()->add_norm_forward == nullptr) GTEST_SKIP() << "built without CUDA";
  }
  at::Tensor random(at::IntArrayRef sizes, double scale = 1, double mean = 0) { return normal(random_, sizes, scale, mean).to(at::kCUDA); }
  Random random_{20256, 1};
};

at::TensorOptions on_gpu(at::ScalarType type) { return at::TensorOptions(at::kCUDA).dtype(type); }

// Both results weigh in the gradient, one of them alone, or the other.
TEST_F(CudaTraining, ResidualSumAndNorm) {
  for (const int64_t width : {8, 64, 200, 256, 512, 520, 1024}) {
    for (const int64_t rows : {1, 7, 3000}) {
      for (const int part : {0, 1, 2}) {
        const at::Tensor x = random({rows, width}, 2).to(at::kFloat), delta = random({rows, width}).to(at::kBFloat16),
                         w = random({width}, 0.2, 1).to(at::kFloat), c = random({rows, width}).to(at::kFloat),
                         e = random({rows, width}).to(at::kBFloat16).to(at::kFloat);
        ASSERT_TRUE(cuda_kernels()->add_norm_supports(x, delta, w, at::kBFloat16));
        const auto loss = [&](const AddNorm& both) {
          at::Tensor total = part == 1 ? at::Tensor() : (both.sum * c.to(both.sum.scalar_type())).sum();
          if (part != 0) {
            const at::Tensor y = (both.y.to(both.sum.scalar_type()) * e.to(both.sum.scalar_type())).sum();
            total = total.defined() ? total + y : y;
          }
          return total;
        };
        const auto run = [&](at::ScalarType type, bool reference) {
          Tensors in = {x.to(type).clone().requires_grad_(true), delta.to(reference ? type : at::kBFloat16).clone().requires_grad_(true),
                        w.to(type).clone().requires_grad_(true)};
          AddNorm both;
          if (reference) {
            const at::Tensor sum = in[0] + in[1];
            both = {sum, rms_norm_reference(sum, in[2])};
          } else {
            both = add_rms_norm(in[0], in[1], in[2], at::kBFloat16);
          }
          if (part == 0) in.pop_back();  // the weight has no part in it
          return std::tuple(both.sum.detach(), both.y.detach(), torch::autograd::grad({loss(both)}, in));
        };
        const auto [sum, y, got] = run(at::kFloat, false);
        const auto [want_sum, want_y, want] = run(at::kDouble, true);
        const std::string what = fmt::format("{} x {}, part {}", rows, width, part);
        EXPECT_LE(worst(sum, want_sum), 1e-6 * largest(want_sum)) << what;
        EXPECT_LE(worst(y, want_y), largest(want_y) / 250) << what;
        EXPECT_LE(worst(got[0], want[0]), 1e-5 * largest(want[0])) << what << ": gradient of x";
        EXPECT_LE(worst(got[1], want[1]), largest(want[1]) / 250) << what << ": gradient of delta";
        if (part != 0) {
          EXPECT_LE(worst(got[2], want[2]), 1e-5 * largest(want[2])) << what << ": gradient of the weight";
          EXPECT_TRUE(std::get<2>(run(at::kFloat, false))[2].equal(got[2])) << what << ": the same bits again";
        }
      }
    }
  }
}

// The choice must be that of the CPU's plain path bit for bit: few different scores, so that ties abound; noise; every visibility.
TEST_F(CudaTraining, ChoiceFromGivenScores) {
  Random random(41, 5);
  for (int i = 0; i < 60; ++i) {
    const int64_t B = 1 + random.below(3), L = 1 + random.below(150), Q = 1 + random.below(2);
    const int64_t C = i % 5 == 0 ? 200 + random.below(825) : 2 + random.below(130), n = 1 + random.below(std::min<int64_t>(C - 1, 64));
    Visibility v;
    v.chunk = 1 + random.below(6);
    v.first_chunk = random.chance(0.3) ? (int64_t{1} << 33) + random.below(9) : 0;
    v.first_position = v.chunk * v.first_chunk + random.below(v.chunk * C);
    v.exclude_window = random.chance(0.3) ? 1 + random.below(2 * v.chunk) : 0;
    at::Tensor score =
        random.chance(0.5) ? at::randint(-2, 3, {B, L, Q, C}, on_gpu(at::kFloat)) : at::randn({B, L, Q, C}, on_gpu(at::kFloat));
    if (random.chance(0.2)) score = score.masked_fill(score > 1, -std::numeric_limits<double>::infinity());
    const uint64_t key = random.chance(0.6) ? (1 + static_cast<uint64_t>(random.below(1 << 30))) << 20 : 0;
    ASSERT_TRUE(cuda_kernels()->select_given_supports(score, n));
    const int64_t row = random.below(1000);
    const Selection got = select_from_scores(score, n, v, key, row), want = select_from_scores(score.cpu(), n, v, key, row);
    const std::string what = fmt::format("case {}: B {} L {} Q {} C {} n {} noise {}", i, B, L, Q, C, n, key);
    EXPECT_TRUE(got.index.cpu().equal(want.index)) << what;
    EXPECT_TRUE(got.score.cpu().equal(want.score)) << what;
  }
}

TEST_F(CudaTraining, ScoresOfShortOperands) {
  for (const auto& [B, L, C, Q, width] :
       {std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t>{1, 70, 9, 1, 64}, {3, 33, 16, 2, 40}, {2, 128, 64, 1, 512}}) {
    const Operator fast = [](const Tensors& x) { return landmark_scores(x[0], x[1]); };
    const Tensors x = {random({B, L, Q, width}), random({B, C, Q, width})};
    Tensors rounded;
    for (const at::Tensor& t : x) rounded.push_back(t.to(at::kBFloat16).to(at::kDouble));
    const at::Tensor c = random({B, L, Q, C});
    const Outcome got = outcome(fast, rounded, c, at::kBFloat16), want = outcome(fast, rounded, c, at::kDouble);
    const std::string what = fmt::format("B {} L {} C {} Q {} width {}", B, L, C, Q, width);
    EXPECT_EQ(got.y.scalar_type(), at::kFloat);
    EXPECT_LE(worst(got.y, want.y), 1e-5 * largest(want.y)) << what;
    for (size_t i = 0; i < 2; ++i)
      EXPECT_LE(worst(got.grads[i], want.grads[i]), largest(want.grads[i]) / 100) << what << ": gradient " << i;
  }
}

// The joint path against the three parts by themselves, in fp64.
TEST_F(CudaTraining, QueriesKeysAndValuesOfOneProduct) {
  for (const auto& [B, L, H, G, D] :
       {std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t>{1, 5, 2, 1, 16}, {2, 70, 8, 8, 64}, {3, 33, 4, 2, 128}}) {
    for (const bool turned : {true, false}) {
      for (const int part : {0, 1, 2, 3}) {  // which results weigh: q, k, v, all
        const auto loss = [&, B = B, L = L, H = H, G = G, D = D](bool reference) {
          return [=](const Tensors& x) {
            const RotaryTable table = turned ? rotary_table(int64_t{1} << 33, L, D, 1e4, x[0].device(), x[0].scalar_type()) : RotaryTable{};
            QueryKeyValue all;
            if (reference) {
              const std::vector<at::Tensor> p = x[0].split_with_sizes({H * D, G * D, G * D}, -1);
              all = {norm_rotate_reference(p[0].view({B, L, H, D}), x[1], table),
                     norm_rotate_reference(p[1].view({B, L, G, D}), x[2], table), p[2].view({B, L, G, D})};
            } else {
              all = split_norm_rotate(x[0], x[1], x[2], table, H, G);
            }
            if (part == 0) return all.q.flatten(2) + 0 * (x[2].sum());
            if (part == 1) return all.k.flatten(2) + 0 * (x[1].sum());
            if (part == 2) return all.v.flatten(2) + 0 * (x[1].sum() + x[2].sum());
            return at::cat({all.q.flatten(2), all.k.flatten(2), all.v.flatten(2)}, 2);
          };
        };
        const Tensors x = {random({B, L, (H + 2 * G) * D}, 2), random({D}, 0.2, 1), random({D}, 0.2, 1)};
        const at::Tensor c = random({B, L, (part == 0 ? H : part == 3 ? H + 2 * G : G) * D});
        const std::string what = fmt::format("B {} L {} H {} G {} D {} turned {} part {}", B, L, H, G, D, turned, part);
        expect_close_fp32(loss(false), loss(true), x, c, what);
        expect_close_bf16(loss(false), loss(true), loss(true), x, c, what);
      }
    }
  }
}

TEST_F(CudaTraining, RouteSums) {
  Random draw(43, 6);
  for (int i = 0; i < 24; ++i) {
    const int64_t B = 1 + draw.below(3), S = 1 + draw.below(9), C = 8 * (1 + draw.below(9)), L = S * C + draw.below(S);
    const int64_t sequences = B + draw.below(4), keys = 5;
    const RouteLayout layout = {L, C, S, draw.below(sequences - B + 1)};
    const bool keyed = draw.chance(0.7);
    const at::Tensor used = at::rand({B * L}, on_gpu(at::kFloat)) < 0.6, key = at::randint(0, keys, {B * L}, on_gpu(at::kLong));
    at::Tensor table = at::rand({keys, sequences * C}, on_gpu(at::kFloat)) < 0.3;
    table.select(0, 0).fill_(false);
    table.select(0, 4).fill_(true);  // one key that closes every other sequence
    const at::Tensor none, cotangent = random({B * L});
    for (const auto type : {at::kFloat, at::kBFloat16}) {
      const at::Tensor product = random({B * L, sequences * C}, 8).to(type);
      ASSERT_TRUE(cuda_kernels()->route_supports(product));
      const auto run = [&](bool fast, at::ScalarType as) {
        const at::Tensor x = product.to(as).detach().clone().requires_grad_(true);
        const at::Tensor y =
            (fast ? route_log_sum : route_log_sum_reference)(x, 0.3, layout, keyed ? table : none, keyed ? key : none, used);
        // Rows that see nothing at all stand at -1e30: left out of the comparison of sums, and without a gradient.
        const at::Tensor shown = y.detach().masked_fill(y.detach() < -1e20, 0);
        const Tensors grads = torch::autograd::grad({(y * cotangent.to(y.scalar_type())).masked_fill(y < -1e20, 0).sum()}, {x});
        return std::pair(shown, grads[0]);
      };
      const auto [y, dx] = run(true, type);
      const auto [want, want_dx] = run(false, at::kDouble);
      const std::string what =
          fmt::format("case {}: B {} L {} C {} sequences {} {}", i, B, L, C, sequences, type == at::kFloat ? "fp32" : "bf16");
      EXPECT_LE(worst(y, want), 1e-5 * largest(want) + 1e-5) << what;
      EXPECT_LE(worst(dx, want_dx), (type == at::kFloat ? 1e-4 : 1.0 / 200) * largest(want_dx)) << what;
      EXPECT_EQ(largest(y.masked_select(used.logical_not())), 0) << what;
    }
  }
}

// Rows by their numbers, in any order, some unused.
TEST_F(CudaTraining, RouteSumsOfNumberedRows) {
  Random draw(44, 6);
  for (int i = 0; i < 12; ++i) {
    const int64_t B = 1 + draw.below(3), S = 1 + draw.below(9), C = 8 * (1 + draw.below(9)), L = S * C + draw.below(S);
    const int64_t sequences = B + draw.below(4), keys = 5, n = 1 + draw.below(B * L);
    const RouteLayout layout = {L, C, S, draw.below(sequences - B + 1)};
    const at::Tensor used = at::randint(-1, B * L, {n}, on_gpu(at::kLong)), key = at::randint(0, keys, {n}, on_gpu(at::kLong));
    at::Tensor table = at::rand({keys, sequences * C}, on_gpu(at::kFloat)) < 0.3;
    const at::Tensor cotangent = random({n}), product = random({n, sequences * C}, 8).to(at::kBFloat16);
    const auto run = [&](bool fast, at::ScalarType as) {
      const at::Tensor x = product.to(as).detach().clone().requires_grad_(true);
      const at::Tensor y = (fast ? route_log_sum : route_log_sum_reference)(x, 0.3, layout, table, key, used);
      const at::Tensor shown = y.detach().masked_fill(y.detach() < -1e20, 0);
      const Tensors grads = torch::autograd::grad({(y * cotangent.to(y.scalar_type())).masked_fill(y < -1e20, 0).sum()}, {x});
      return std::pair(shown, grads[0]);
    };
    const auto [y, dx] = run(true, at::kBFloat16);
    const auto [want, want_dx] = run(false, at::kDouble);
    const std::string what = fmt::format("case {}: B {} L {} C {} sequences {} rows {}", i, B, L, C, sequences, n);
    EXPECT_LE(worst(y, want), 1e-5 * largest(want) + 1e-5) << what;
    EXPECT_LE(worst(dx, want_dx), largest(want_dx) / 200) << what;
  }
}

// Logits that were kept, and logits that are made again (by a second backward, or of large vocabularies): the same gradients.
TEST_F(CudaTraining, CrossEntropyWithKeptLogits) {
  const auto run = [&](int64_t rows, int64_t vocab) {
    const at::Tensor hidden = random({rows, 64}).to(at::kBFloat16).requires_grad_(true),
                     embedding = random({vocab, 64}).to(at::kBFloat16).requires_grad_(true),
                     target = at::randint(0, vocab, {rows}, on_gpu(at::kLong)), weight = at::rand({rows}, on_gpu(at::kFloat));
    const at::Tensor loss = (linear_cross_entropy(hidden, embedding, target).loss * weight).sum();
    const Tensors first = torch::autograd::grad({loss}, {hidden, embedding}, {}, /*retain_graph=*/true);
    const Tensors second = torch::autograd::grad({loss}, {hidden, embedding});
    for (int i = 0; i < 2; ++i) {
      EXPECT_TRUE(first[i].equal(second[i])) << rows << " " << vocab << " " << i;
      EXPECT_GT(largest(first[i]), 0);
    }
    const at::Tensor x = hidden.detach().to(at::kDouble).requires_grad_(true), e = embedding.detach().to(at::kDouble).requires_grad_(true);
    const at::Tensor exact = (linear_cross_entropy_reference(x, e, target).loss * weight).sum();
    const Tensors want = torch::autograd::grad({exact}, {x, e});
    for (int i = 0; i < 2; ++i) EXPECT_LE(worst(first[i], want[i]), largest(want[i]) / 50) << rows << " " << vocab << " " << i;
  };
  run(40'000, 512);
  run(1'000, 4096);
  run(7, 64);
}

// Two norms of parts of one product: the bits of each alone, gradients included.
TEST_F(CudaTraining, NormsOfParts) {
  Random draw(45, 6);
  for (int i = 0; i < 8; ++i) {
    const int64_t B = 1 + draw.below(3), L = 1 + draw.below(40), H = 1 + draw.below(5), D = 16 * (1 + draw.below(8)),
                  R = 16 * (1 + draw.below(32));
    const at::Tensor joined = random({B, L, R + H * D}, 3).to(at::kBFloat16), g = random({R}, 0.3, 1), h = random({D}, 0.3, 1),
                     c = random({B, L, 1, R}).to(at::kBFloat16), e = random({B, L, H, D}).to(at::kBFloat16);
    const int which = static_cast<int>(draw.below(3));  // whose gradient there is
    const auto run = [&](bool together) {
      const at::Tensor x = joined.clone().requires_grad_(true), v = g.clone().requires_grad_(true), w = h.clone().requires_grad_(true);
      const Tensors parts = x.split_with_sizes({R, H * D}, -1);
      const Tensors out = together ? norm_parts(x, {v, w}, {1, H})
                                   : Tensors{rms_norm(parts[0].view({B, L, 1, R}), v), norm_rotate(parts[1].view({B, L, H, D}), w, {})};
      at::Tensor loss = at::zeros({}, c.options().dtype(at::kFloat));
      if (which != 1) loss = loss + (out[0] * c).to(at::kFloat).sum();
      if (which != 0) loss = loss + (out[1] * e).to(at::kFloat).sum();
      loss.backward();
      Tensors all = {out[0].detach(), out[1].detach(), x.grad()};
      if (which != 1) all.push_back(v.grad());
      if (which != 0) all.push_back(w.grad());
      return all;
    };
    const Tensors apart = run(false), together = run(true);
    for (size_t k = 0; k < apart.size(); ++k) EXPECT_TRUE(apart[k].equal(together[k])) << i << " " << which << " " << k;
  }
}

// A stream that is normed and goes on: both gradients, or one of them.
TEST_F(CudaTraining, NormOfAStreamThatGoesOn) {
  for (const int64_t width : {64, 512, 1000}) {
    for (const int which : {0, 1, 2}) {
      const at::Tensor x = random({3, 37, width}), w = random({width}, 0.3, 1), c = random({3, 37, width}),
                       e = random({3, 37, width}).to(at::kBFloat16);
      const auto run = [&](at::ScalarType type, bool fast) {
        const at::Tensor a = x.to(type).detach().clone().requires_grad_(true), b = w.to(type).detach().clone().requires_grad_(true);
        const at::Tensor stream = a * 1.0;  // no leaf, as in a model
        const AddNorm out = fast ? add_rms_norm(stream, {}, b, at::kBFloat16) : AddNorm{stream, rms_norm_reference(stream, b)};
        at::Tensor loss = at::zeros({}, x.options().dtype(type));
        if (which != 1) loss = loss + (out.sum * c.to(type)).sum();
        if (which != 0) loss = loss + (out.y.to(type) * e.to(type)).sum();
        loss.backward();
        return Tensors{out.y.detach(), a.grad(), b.grad()};
      };
      const Tensors got = run(at::kFloat, true), want = run(at::kDouble, false);
      EXPECT_LE(worst(got[0], want[0]), largest(want[0]) / 100);
      EXPECT_LE(worst(got[1], want[1]), 1e-5 * largest(want[1])) << width << " " << which;
      ASSERT_EQ(got[2].defined(), which != 0);
      if (which != 0) {
        EXPECT_LE(worst(got[2], want[2]), 1e-5 * largest(want[2])) << width << " " << which;
      }
    }
  }
}

}  // namespace
}  // namespace cairn
