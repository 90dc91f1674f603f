// Random operands of memory attention with exact-mass weights, for its tests on either device.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "cairn/ops/hsa/exact_mass.h"
#include "ops/compare.h"

namespace cairn::testing {

struct ExactMassCase {
  int64_t B, L, H, G, D, C, S, N, Q;
  double alpha;
  Tensors x;  // q, k, v, score in fp64
  at::Tensor index;

  // Chunks that a row sees, the most recent of them first where N is C; else some of them.
  ExactMassCase(Random& random, int64_t B_, int64_t L_, int64_t H_, int64_t G_, int64_t D_, int64_t C_, int64_t S_, int64_t N_, int64_t Q_,
                double alpha_)
      : B(B_), L(L_), H(H_), G(G_), D(D_), C(C_), S(S_), N(N_), Q(Q_), alpha(alpha_) {
    x = {normal(random, {B, L, H, D}), normal(random, {B, C * S, G, D}), normal(random, {B, C * S, G, D}), normal(random, {B, L, Q, N}, 2)};
    index = at::full({B, L, Q, N}, -1, at::kLong);
    int64_t* row = index.mutable_data_ptr<int64_t>();
    for (int64_t b = 0; b < B; ++b) {
      for (int64_t t = 0; t < L; ++t) {
        for (int64_t g = 0; g < Q; ++g, row += N) {
          const int64_t visible = std::min(t / S, C);
          std::vector<int64_t> picked = random.choose(visible, std::min(N, visible));
          std::sort(picked.rbegin(), picked.rend());
          std::copy(picked.begin(), picked.end(), row);
        }
      }
    }
    index = index.to(x[0].device());
  }
  std::string text() const {
    return fmt::format("B {} L {} H {} G {} D {} C {} S {} N {} Q {} alpha {}", B, L, H, G, D, C, S, N, Q, alpha);
  }
  // o, by either path; score stays fp32 where the others are bf16.
  Operator composed() const { return by(hsa_exact_mass_composed); }
  Operator fast() const { return by(hsa_exact_mass); }

 private:
  using Path = ExactMass (*)(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, double, int64_t,
                             bool);
  Operator by(Path path) const {
    return [c = *this, path](const Tensors& t) {
      const at::Tensor score = t[3].scalar_type() == at::kBFloat16 ? t[3].to(at::kFloat) : t[3];
      return path(t[0], t[1], t[2], c.index, score, c.alpha, c.S, false).o;
    };
  }
};

}  // namespace cairn::testing
