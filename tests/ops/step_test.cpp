// The operators of a decoding step in their plain form (any device) against the operators for whole texts.
#include "cairn/ops/step/step.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "cairn/ops/hsa/hsa.h"
#include "cairn/ops/hsa/pages.h"
#include "cairn/ops/norm/norm.h"
#include "cairn/ops/projection/projection.h"
#include "cairn/ops/select/select.h"
#include "cairn/ops/swiglu/swiglu.h"
#include "cairn/ops/window/step.h"
#include "cairn/ops/window/window.h"
#include "ops/compare.h"

namespace cairn {
namespace {

using testing::normal;
using testing::test_device;
using testing::worst;

TEST(Step, AWindowThatMovesGivesWhatTheWholeTextGives) {
  CAIRN_NEED_TEST_DEVICE();
  const at::NoGradGuard no_gradient;
  Random random(8, 1);
  for (int i = 0; i < 12; ++i) {
    const int64_t B = 1 + random.below(2), G = 1 + random.below(2), H = G * (1 + random.below(3)), D = 8, W = 2 + random.below(9),
                  L = W + 20;
    const bool turned = random.chance(.5);
    const at::Tensor alibi = !turned && random.chance(.5) ? normal(random, {H}).abs().to(at::kFloat) : at::Tensor();
    const at::Tensor joined = normal(random, {B, L, (H + 2 * G) * D}).to(at::kFloat), q_gain = normal(random, {D}, .2, 1).to(at::kFloat),
                     k_gain = normal(random, {D}, .2, 1).to(at::kFloat);
    const at::Tensor heads = joined.view({B, L, H + 2 * G, D});
    const auto table = [&](int64_t first, int64_t count) {
      return turned ? rotary_table(first, count, D, 1e4, test_device(), at::kFloat) : RotaryTable{};
    };
    const at::Tensor q = norm_rotate(heads.narrow(2, 0, H), q_gain, table(0, L)),
                     k = norm_rotate(heads.narrow(2, H, G), k_gain, table(0, L)), v = heads.narrow(2, H + G, G);
    const at::Tensor want = window_attention_reference(q, k, v, W, alibi);
    // The first W - 1 tokens are there; the column of the next one holds anything.
    const int64_t begin = W - 1;
    WindowRing ring{at::full({B, W, G, D}, 7.0, joined.options()), at::full({B, W, G, D}, 7.0, joined.options()),
                    at::full({}, begin, joined.options().dtype(at::kLong))};
    ring.k.narrow(1, 0, begin).copy_(k.narrow(1, 0, begin));
    ring.v.narrow(1, 0, begin).copy_(v.narrow(1, 0, begin));
    for (int64_t p = begin; p < L; ++p) {
      const at::Tensor got = window_step(joined.narrow(1, p, 1).contiguous(), q_gain, k_gain, table(p, 1), ring, alibi);
      ASSERT_LE(worst(got, want.narrow(1, p, 1)), 1e-5) << fmt::format("W {} position {}", W, p);
      ring.position.add_(1);
    }
  }
}

TEST(Step, ChunksInPagesGiveWhatOneTensorGives) {
  CAIRN_NEED_TEST_DEVICE();
  const at::NoGradGuard no_gradient;
  Random random(8, 2);
  const int64_t B = 2, G = 2, H = 4, D = 8, S = 4, C = 7, N = 3, first = int64_t{1} << 33;
  const at::Tensor k = normal(random, {B, C * S, G, D}).to(at::kFloat), v = normal(random, {B, C * S, G, D}).to(at::kFloat),
                   raw = normal(random, {B, 1, H, D}).to(at::kFloat), gain = normal(random, {D}, .2, 1).to(at::kFloat);
  ChunkPages pages{{}, {}, first};
  for (const auto& [begin, count] : {std::pair<int64_t, int64_t>{0, 3}, {3, 1}, {4, 3}}) {
    for (const auto& [list, all] : {std::pair{&pages.k, &k}, std::pair{&pages.v, &v}})
      list->push_back(all->narrow(1, begin * S, count * S).reshape({B, count, S, G, D}));
  }
  const at::Tensor index = (at::arange(B * N, at::TensorOptions(at::kLong).device(test_device())) % C).view({B, 1, 1, N}).clone();
  index.select(3, 2).select(0, 1).fill_(-1);
  const at::Tensor score = normal(random, {B, 1, 1, N}).to(at::kFloat), used = index >= 0;
  for (const bool stick : {false, true}) {
    const at::Tensor got = hsa_pages(raw, gain, pages, at::where(used, index + first, index), score, {stick, true});
    const at::Tensor weight = stick ? stick_breaking_weights(score, used) : softmax_weights(score, used);
    EXPECT_LE(worst(got, hsa_reference(norm_rotate(raw, gain, {}), k, v, index, weight, S, true).o), 1e-5) << stick;
  }
}

TEST(Step, ProductsAreTheSequencesTheyStandFor) {
  CAIRN_NEED_TEST_DEVICE();
  const at::NoGradGuard no_gradient;
  Random random(8, 3);
  const at::Tensor x = normal(random, {2, 3, 16}).to(at::kFloat), gain = normal(random, {16}).to(at::kFloat),
                   w = normal(random, {10, 16}).to(at::kFloat), residual = normal(random, {2, 3, 10}).to(at::kFloat);
  const at::Tensor product = at::matmul(rms_norm(x, gain), w.t());
  EXPECT_LE(worst(norm_linear(x, gain, w, {}, at::kFloat), product), 1e-5);
  EXPECT_LE(worst(norm_swiglu(x, gain, w), swiglu_joint(product)), 1e-5);
  EXPECT_LE(worst(linear_add(x, w, residual), residual + at::matmul(x, w.t())), 1e-5);
}

TEST(Step, TheEndKeepsWhatComesByItsPosition) {
  CAIRN_NEED_TEST_DEVICE();
  Random random(8, 4);
  const auto floats = at::TensorOptions(at::kFloat).device(test_device());
  StepEnd step{{},
               {},
               at::zeros({2, 4, 3}, floats),
               at::zeros({2, 5, 3}, floats),
               at::zeros({2, 1}, floats.dtype(at::kLong)),
               at::full({}, 11, floats.dtype(at::kLong)),
               at::zeros({1}, floats.dtype(at::kInt))};
  std::vector<at::Tensor> states;
  for (int i = 0; i < 9; ++i) {
    states.push_back(normal(random, {2, 1, 3}).to(at::kFloat));
    step.x = states.back();
    step.logits = normal(random, {2, 1, 6}).to(at::kFloat);
    end_step(step);
    EXPECT_TRUE(at::equal(step.best, step.logits.select(1, 0).argmax(-1, true)));
  }
  EXPECT_EQ(step.position.item<int64_t>(), 20);
  // Positions 16 .. 19 in columns 0 .. 3, 15 .. 19 in columns 0 .. 4.
  EXPECT_TRUE(at::equal(step.partial, at::cat({states[5], states[6], states[7], states[8]}, 1)));
  EXPECT_TRUE(at::equal(step.tail, at::cat({states[4], states[5], states[6], states[7], states[8]}, 1)));
}

}  // namespace
}  // namespace cairn
