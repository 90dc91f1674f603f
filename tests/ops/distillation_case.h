// Random operands of landmark distillation, for its tests on either device.
#pragma once

#include <ATen/TensorOperators.h>
#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "cairn/ops/distillation/distillation.h"
#include "cairn/ops/select/select.h"
#include "ops/compare.h"

namespace cairn::testing {

struct DistillationCase {
  int64_t B, L, H, C, S;
  MassOrder order;
  at::Tensor lse, score;  // fp64, rounded to fp32

  DistillationCase(Random& random, int64_t B_, int64_t L_, int64_t H_, int64_t C_, int64_t S_, MassOrder order_)
      : B(B_), L(L_), H(H_), C(C_), S(S_), order(order_) {
    lse = normal(random, {B, L, H, C}, 3, 5).to(at::kFloat).to(at::kDouble);
    score = normal(random, {B, L, C}, 2).to(at::kFloat).to(at::kDouble);
  }
  DistillationCase(Random& random, int64_t most_chunks)
      : DistillationCase(random, 1 + random.below(3), random.below(most_chunks + 1), random) {}

  std::string text() const {
    return fmt::format("B {} L {} H {} C {} S {}{}", B, L, H, C, S, order == MassOrder::kByChunk ? "" : ", nearest first");
  }
  Operator fast() const {
    return [c = *this](const Tensors& x) { return landmark_distillation(c.lse.to(x[0].scalar_type()), x[0], c.S, c.order); };
  }
  Operator reference() const {
    return [c = *this](const Tensors& x) { return landmark_distillation_reference(c.lse.to(x[0].scalar_type()), x[0], c.S, c.order); };
  }
  at::Tensor visible() const {
    Visibility v;
    v.chunk = S;
    return visible_chunks(L, C, v, score.device());
  }
  // `filler` at all places that no row sees.
  DistillationCase filled(double filler) const {
    DistillationCase c = *this;
    const at::Tensor closed = visible().logical_not();  // in both orders: the first v places are seen
    c.lse = lse.masked_fill(closed.unsqueeze(1), filler);
    c.score = score.masked_fill(closed, filler);
    return c;
  }

 private:
  DistillationCase(Random& random, int64_t B_, int64_t C_, Random&) : DistillationCase(random, B_, C_, 1 + random.below(5)) {}
  // Chunks may be fewer than the text has, and the text may end inside one.
  DistillationCase(Random& random, int64_t B_, int64_t C_, int64_t S_)
      : DistillationCase(random, B_, S_ * C_ + random.below(3 * S_), 1 + random.below(20), C_, S_,
                         random.chance(0.5) ? MassOrder::kByChunk : MassOrder::kNearestFirst) {}
};

}  // namespace cairn::testing
