// The equation of hsa.h written out: gather the chunks of every (token, slot), one softmax each, a weighted sum. Kept for ever as the
// yardstick.
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/log1p.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "cairn/core/error.h"
#include "cairn/ops/hsa/hsa.h"
#include "cairn/ops/hsa/shapes.h"

namespace cairn {

HsaOutput hsa_reference(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& index, const at::Tensor& weight,
                        int64_t chunk, bool off_by_one, bool want_lse) {
  const HsaShape z = hsa_shape(q, k, v, index, weight, chunk);
  const auto work = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  HsaOutput out;
  if (z.chunks == 0 || z.slots == 0 || z.batch * z.rows == 0) {
    // A sum over no numbers: zeros that still hang in the graph of q, so that callers may differentiate without a case of their own.
    const at::Tensor zero = q.narrow(3, 0, 0).sum(-1, /*keepdim=*/true);
    out.o = zero.expand({z.batch, z.rows, z.heads, z.width}).contiguous();
    if (want_lse) out.lse = zero.to(work).expand({z.batch, z.rows, z.heads, z.slots}).contiguous();
    return out;
  }
  const int64_t B = z.batch, L = z.rows, G = z.groups, R = z.heads / z.groups, D = z.width, N = z.slots, C = z.chunks, S = chunk;
  const at::Tensor idx = index.expand({B, L, G, N});
  const at::Tensor used = idx.ge(0).unsqueeze(-1);  // [B,L,G,N,1]

  // Rows of a [B*G*C, S*D] table of chunks.
  const at::Tensor base = at::arange(B * G, index.options()).mul(C).view({B, 1, G, 1});
  const at::Tensor row = (idx.clamp_min(0) + base).flatten();
  const auto chunks_of = [&](const at::Tensor& m) {
    const at::Tensor table = m.narrow(1, 0, C * S).to(work).view({B, C, S, G, D}).permute({0, 3, 1, 2, 4}).reshape({B * G * C, S * D});
    return table.index_select(0, row).view({B, L, G, N, S, D});
  };
  const at::Tensor q_rows = q.to(work).reshape({B, L, G, 1, R, D});
  const at::Tensor s = at::matmul(q_rows, chunks_of(k).transpose(-1, -2)) / std::sqrt(static_cast<double>(D));  // [B,L,G,N,R,S]
  at::Tensor lse = s.logsumexp(-1);
  if (off_by_one) {
    const at::Tensor top = lse.detach().clamp_min(0);
    lse = top + ((lse - top).exp() + (-top).exp()).log();
  }
  const at::Tensor p = (s - lse.unsqueeze(-1)).exp();
  const at::Tensor o_n = at::matmul(p, chunks_of(v));  // [B,L,G,N,R,D]

  const int64_t Hw = weight.size(2);
  at::Tensor w = weight.to(work);
  w = Hw == z.heads ? w.reshape({B, L, G, R, N}) : w.unsqueeze(3).expand({B, L, G, R, N});
  w = at::where(used, w.transpose(3, 4), at::zeros({}, w.options()));  // [B,L,G,N,R]
  out.o = (w.unsqueeze(-1) * o_n).sum(3).reshape({B, L, z.heads, D}).to(q.scalar_type());
  if (want_lse) out.lse = at::where(used, lse, at::zeros({}, lse.options())).transpose(3, 4).reshape({B, L, z.heads, N});
  return out;
}

}  // namespace cairn
