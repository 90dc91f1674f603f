// Gradients of the memory attention written out (docs/algorithm.md section 2), beside the forward of reference.cpp.
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "cairn/ops/hsa/direct.h"
#include "cairn/ops/hsa/shapes.h"

namespace cairn {

HsaGradients hsa_reference_backward(const at::Tensor& grad_o, const at::Tensor& grad_lse, const at::Tensor& q, const at::Tensor& k,
                                    const at::Tensor& v, const at::Tensor& index, const at::Tensor& weight, int64_t chunk,
                                    bool off_by_one) {
  const HsaShape z = hsa_shape(q, k, v, index, weight, chunk);
  const auto work = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const int64_t B = z.batch, L = z.rows, G = z.groups, R = z.heads / z.groups, D = z.width, N = z.slots, C = z.chunks, S = chunk;
  if (B * L * N * C == 0) {
    return {at::zeros(q.sizes(), q.options()), at::zeros(k.sizes(), k.options()), at::zeros(v.sizes(), v.options()),
            at::zeros(weight.sizes(), weight.options())};
  }
  const double scale = 1.0 / std::sqrt(static_cast<double>(D));
  const at::Tensor idx = index.expand({B, L, G, N});
  const at::Tensor used = idx.ge(0).unsqueeze(-1);  // [B,L,G,N,1]
  const at::Tensor base = at::arange(B * G, index.options()).mul(C).view({B, 1, G, 1});
  const at::Tensor row = (idx.clamp_min(0) + base).flatten();  // of a [B*G*C, S*D] table of chunks
  const auto chunks_of = [&](const at::Tensor& m) {
    const at::Tensor table = m.narrow(1, 0, C * S).to(work).view({B, C, S, G, D}).permute({0, 3, 1, 2, 4}).reshape({B * G * C, S * D});
    return table.index_select(0, row).view({B, L, G, N, S, D});
  };
  // The adjoint: [B,L,G,N,S,D] of the slots -> [B,M,G,D].
  const auto to_keys = [&](const at::Tensor& d, const at::Tensor& like) {
    const at::Tensor table = at::zeros({B * G * C, S * D}, d.options()).index_add_(0, row, d.reshape({B * L * G * N, S * D}));
    at::Tensor out = at::zeros(like.sizes(), like.options());
    out.narrow(1, 0, C * S).copy_(table.view({B, G, C, S, D}).permute({0, 2, 3, 1, 4}).reshape({B, C * S, G, D}));
    return out;
  };
  // [B,L,1|G|H,N] -> [B,L,G,N,R], 0 in unused slots.
  const auto by_slot = [&](const at::Tensor& x) {
    const at::Tensor t = x.to(work);
    const at::Tensor split = t.size(2) == z.heads ? t.reshape({B, L, G, R, N}) : t.unsqueeze(3).expand({B, L, G, R, N});
    return at::where(used, split.transpose(3, 4), at::zeros({}, t.options()));
  };

  const at::Tensor keys = chunks_of(k), values = chunks_of(v), q_rows = q.to(work).reshape({B, L, G, 1, R, D});
  const at::Tensor s = at::matmul(q_rows, keys.transpose(-1, -2)) * scale;  // [B,L,G,N,R,S]
  at::Tensor lse = s.logsumexp(-1, /*keepdim=*/true);
  if (off_by_one) {
    const at::Tensor top = lse.clamp_min(0);
    lse = top + ((lse - top).exp() + (-top).exp()).log();
  }
  const at::Tensor p = (s - lse).exp(), w = by_slot(weight).unsqueeze(-1);
  const at::Tensor g = grad_o.to(work).reshape({B, L, G, 1, R, D});
  const at::Tensor dp = at::matmul(g, values.transpose(-1, -2));
  const at::Tensor dot = (p * dp).sum(-1, /*keepdim=*/true);  // <g, o_k>
  at::Tensor ds = w * p * (dp - dot);
  if (grad_lse.defined()) ds = ds + by_slot(grad_lse).unsqueeze(-1) * p;
  ds = ds * scale;

  HsaGradients out;
  out.q = at::matmul(ds, keys).sum(3).reshape({B, L, z.heads, D}).to(q.scalar_type());
  out.k = to_keys(at::matmul(ds.transpose(-1, -2), q_rows), k);
  out.v = to_keys(at::matmul((w * p).transpose(-1, -2), g), v);
  const at::Tensor dw = at::where(used, dot.squeeze(-1), at::zeros({}, dot.options())).transpose(3, 4).reshape({B, L, z.heads, N});
  const int64_t Hw = z.weight_heads;
  out.weight = (Hw == z.heads ? dw : dw.reshape({B, L, Hw, z.heads / Hw, N}).sum(3)).to(weight.scalar_type());
  return out;
}

}  // namespace cairn
