#include <ATen/TensorOperators.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/logaddexp.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>

#include "cairn/core/error.h"
#include "cairn/ops/hsa/cuda.h"
#include "cairn/ops/hsa/shapes.h"

namespace cairn {
namespace {

// a b in fp32; on a GPU bf16 operands go into the product as they are and only the sums are fp32.
at::Tensor product(const at::Tensor& a, const at::Tensor& b, at::ScalarType dtype) {
  if (dtype == at::kBFloat16 && a.is_cuda()) return at::bmm(a.to(dtype), b.to(dtype), at::kFloat);
  return at::bmm(a.to(at::kFloat), b.to(at::kFloat));
}

// Softmax of every chunk for one block of rows of one sequence; [G,T,R,C,S] and [G,T,R,C].
struct Dense {
  const HsaShape& z;
  int64_t rows, R;
  double scale;
  at::ScalarType dtype;
  at::Tensor q, k, v;    // [G,T*R,D], [G,M,D]
  at::Tensor index;      // [G,T,R,N], unused slots 0
  at::Tensor used;       // the same shape, bool
  at::Tensor lse, p, w;  // w: weight of each chunk, 0 where not selected

  at::Tensor by_head(const at::Tensor& x) const {  // [T,H,n] -> [G,T*R,n]
    return x.reshape({rows, z.groups, R, x.size(2)}).transpose(0, 1).reshape({z.groups, rows * R, x.size(2)});
  }
  at::Tensor back(const at::Tensor& x) const {  // [G,T*R,n] or [G,T,R,n] -> [T,H,n]
    return x.reshape({z.groups, rows, R, x.size(-1)}).transpose(0, 1).reshape({rows, z.heads, x.size(-1)});
  }
  at::Tensor spread(const at::Tensor& x) const {  // [T,1|G|H,N] -> [G,T,R,N]
    const int64_t h = x.size(1), N = x.size(2);
    const at::Tensor split = h == z.heads ? x.reshape({rows, z.groups, R, N}) : h == 1 ? x.unsqueeze(2) : x.unsqueeze(2);
    return split.expand({rows, z.groups, R, N}).transpose(0, 1);
  }
  at::Tensor chunks(const at::Tensor& x) const { return x.view({z.groups, rows, R, z.chunks, z.chunk}); }
  at::Tensor flat(const at::Tensor& x) const { return x.reshape({z.groups, rows * R, z.chunks * z.chunk}); }
  // Values of the slots -> one value a chunk, 0 where not selected. Unused slots add 0 to chunk 0.
  at::Tensor to_chunks(const at::Tensor& x) const {
    return at::zeros({z.groups, rows, R, z.chunks}, x.options()).scatter_add_(-1, index, x.masked_fill(used.logical_not(), 0));
  }
  at::Tensor to_slots(const at::Tensor& x) const { return x.gather(-1, index).masked_fill(used.logical_not(), 0); }

  Dense(const HsaShape& shape, const at::Tensor& q_thd, const at::Tensor& k_mgd, const at::Tensor& v_mgd, const at::Tensor& index_tgn,
        const at::Tensor& weight_thn, bool off_by_one)
      : z(shape),
        rows(q_thd.size(0)),
        R(z.heads / z.groups),
        scale(1.0 / std::sqrt(static_cast<double>(z.width))),
        dtype(q_thd.scalar_type()) {
    q = by_head(q_thd);
    k = k_mgd.narrow(0, 0, z.chunks * z.chunk).transpose(0, 1);
    v = v_mgd.narrow(0, 0, z.chunks * z.chunk).transpose(0, 1);
    const at::Tensor slots = spread(index_tgn);
    used = slots.ge(0);
    index = slots.clamp_min(0).contiguous();
    const at::Tensor s = chunks(product(q, k.transpose(1, 2), dtype).mul_(scale));
    lse = s.logsumexp(-1);
    if (off_by_one) lse = at::logaddexp(lse, at::zeros({}, lse.options()));
    p = s.sub(lse.unsqueeze(-1)).exp_();
    w = to_chunks(spread(weight_thn).to(at::kFloat).contiguous());
  }
};

// Calls fn(b, first row, rows) so that one block's scores hold at most `limit` numbers.
template <typename Fn>
void each_block(const HsaShape& z, int64_t limit, const Fn& fn) {
  const int64_t a_row = std::max<int64_t>(z.heads * z.chunks * z.chunk, 1),
                rows = std::clamp<int64_t>(limit / a_row, 1, std::max<int64_t>(z.rows, 1));
  for (int64_t b = 0; b < z.batch; ++b) {
    for (int64_t t = 0; t < z.rows; t += rows) fn(b, t, std::min(rows, z.rows - t));
  }
}

}  // namespace

HsaOutput hsa_dense_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& index,
                            const at::Tensor& weight, int64_t chunk, bool off_by_one, bool want_lse, BlockLimit limit) {
  const HsaShape z = hsa_shape(q, k, v, index, weight, chunk);
  HsaOutput out;
  out.o = at::zeros(q.sizes(), q.options());
  if (want_lse) out.lse = at::zeros({z.batch, z.rows, z.heads, z.slots}, q.options().dtype(at::kFloat));
  if (z.chunks == 0 || z.slots == 0) return out;
  each_block(z, limit.elements, [&](int64_t b, int64_t t, int64_t rows) {
    const auto cut = [&](const at::Tensor& x) { return x[b].narrow(0, t, rows); };
    const Dense y(z, cut(q), k[b], v[b], cut(index), cut(weight), off_by_one);
    cut(out.o).copy_(y.back(product(y.flat(y.p * y.w.unsqueeze(-1)), y.v, y.dtype)));
    if (want_lse) cut(out.lse).copy_(y.back(y.to_slots(y.lse)));
  });
  return out;
}

HsaGradients hsa_dense_backward(const at::Tensor& grad_o, const at::Tensor& grad_lse, const at::Tensor& q, const at::Tensor& k,
                                const at::Tensor& v, const at::Tensor& index, const at::Tensor& weight, int64_t chunk, bool off_by_one,
                                BlockLimit limit) {
  const HsaShape z = hsa_shape(q, k, v, index, weight, chunk);
  HsaGradients out = {at::zeros(q.sizes(), q.options()), at::zeros(k.sizes(), k.options().dtype(at::kFloat)),
                      at::zeros(v.sizes(), v.options().dtype(at::kFloat)), at::zeros(weight.sizes(), weight.options())};
  if (z.chunks > 0 && z.slots > 0) {
    each_block(z, limit.elements, [&](int64_t b, int64_t t, int64_t rows) {
      const auto cut = [&](const at::Tensor& x) { return x[b].narrow(0, t, rows); };
      const Dense y(z, cut(q), k[b], v[b], cut(index), cut(weight), off_by_one);
      const at::Tensor g = y.by_head(cut(grad_o));
      const at::Tensor dp = y.chunks(product(g, y.v.transpose(1, 2), y.dtype));
      const at::Tensor dot = (y.p * dp).sum(-1);  // <g, o_k>
      at::Tensor constant = y.w * dot;
      if (grad_lse.defined()) constant = constant - y.to_chunks(y.spread(cut(grad_lse)).to(at::kFloat).contiguous());
      const at::Tensor ds = y.flat((dp * y.w.unsqueeze(-1)).sub_(constant.unsqueeze(-1)).mul_(y.p).mul_(y.scale));
      cut(out.q).copy_(y.back(product(ds, y.k, y.dtype)));
      const auto add = [&](at::Tensor& to, const at::Tensor& d) { to[b].narrow(0, 0, z.chunks * chunk).add_(d.transpose(0, 1)); };
      add(out.k, product(ds.transpose(1, 2), y.q, y.dtype));
      add(out.v, product(y.flat(y.p * y.w.unsqueeze(-1)).transpose(1, 2), g, y.dtype));
      const at::Tensor dw = y.back(y.to_slots(dot));
      cut(out.weight).copy_(z.weight_heads == z.heads ? dw : dw.reshape({rows, z.weight_heads, z.heads / z.weight_heads, z.slots}).sum(2));
    });
  }
  out.k = out.k.to(k.scalar_type()), out.v = out.v.to(v.scalar_type());
  return out;
}

}  // namespace cairn
