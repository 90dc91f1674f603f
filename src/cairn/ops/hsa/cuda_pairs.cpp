#include <ATen/TensorOperators.h>
#include <ATen/ops/_flash_attention_backward.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/searchsorted.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "cairn/core/error.h"
#include "cairn/ops/hsa/cuda.h"
#include "cairn/ops/hsa/shapes.h"

namespace cairn {
namespace {

double scale_of(const at::Tensor& q) { return 1.0 / std::sqrt(static_cast<double>(q.size(-1))); }

VarlenResult flash_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& cu_q, const at::Tensor& cu_k,
                           int64_t max_q, int64_t max_k) {
  const auto [o, lse, rng_state, unused, mask] = at::_flash_attention_forward(
      q, k, v, cu_q, cu_k, max_q, max_k, /*dropout_p=*/0.0, /*is_causal=*/false, /*return_debug_mask=*/false, scale_of(q));
  return {o, lse, rng_state, unused};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> flash_backward(const at::Tensor& grad_o, const at::Tensor& q, const at::Tensor& k,
                                                              const at::Tensor& v, const VarlenResult& saved, const at::Tensor& cu_q,
                                                              const at::Tensor& cu_k, int64_t max_q, int64_t max_k) {
  return at::_flash_attention_backward(grad_o, q, k, v, saved.o, saved.lse, cu_q, cu_k, max_q, max_k, /*dropout_p=*/0.0,
                                       /*is_causal=*/false, saved.rng_state, saved.unused, scale_of(q));
}

// Rows t .. t + rows of sequences b .. b + sequences.
struct Block {
  int64_t b, sequences, t, rows;
};

// Whole sequences as long as they fit `limit` numbers, else pieces of one.
std::vector<Block> blocks_of(const HsaShape& z, int64_t numbers_a_row, int64_t limit) {
  std::vector<Block> blocks;
  if (z.rows == 0) return blocks;
  const int64_t fit = std::max<int64_t>(1, limit / std::max<int64_t>(numbers_a_row, 1));  // rows
  const int64_t most = std::max<int64_t>(1, kMostParts / std::max<int64_t>(z.chunks * z.index_heads, 1));
  const int64_t sequences = std::clamp<int64_t>(fit / z.rows, 1, most), rows = std::min(z.rows, fit);
  for (int64_t b = 0; b < z.batch; b += sequences) {
    for (int64_t t = 0; t < z.rows; t += rows) blocks.push_back({b, std::min(sequences, z.batch - b), t, std::min(rows, z.rows - t)});
  }
  return blocks;
}

// One block turned into pairs. Where every K/V group selects for itself (Gi = G > 1), groups become sequences of their own with one K/V
// head. "Units" are sequences times those groups; a part of the varlen attention is one chunk of one unit.
struct Pairs {
  int64_t units, rows, slots, heads, width, parts;
  at::Tensor row;      // [P] row of the flattened [units * rows] queries, in chunk order; unused slots last
  at::Tensor inverse;  // [P] slot order -> chunk order
  at::Tensor order;    // [P] chunk order -> slot order
  at::Tensor unused;   // [P] bool, slot order
  at::Tensor cu_q, cu_k;
  int64_t max_q, max_k;

  // index [n,T,Gi,N]
  Pairs(const at::Tensor& index, int64_t heads_, int64_t width_, int64_t chunk, int64_t chunks)
      : units(index.size(0) * index.size(2)),
        rows(index.size(1)),
        slots(index.size(3)),
        heads(heads_),
        width(width_),
        parts(units * chunks) {
    const at::Tensor i = index.permute({0, 2, 1, 3}).reshape({units, rows * slots});
    const at::Tensor unit = at::arange(units, index.options()).unsqueeze(1);
    unused = i.lt(0).flatten();
    const at::Tensor part = at::where(i.lt(0), at::zeros({}, index.options()) + parts, i + unit * chunks).flatten();
    const auto [sorted, by] = part.sort(/*stable=*/true, 0, /*descending=*/false);
    order = by;
    row = order.div(slots, "floor");
    inverse = at::empty_like(order).scatter_(0, order, at::arange(order.numel(), order.options()));
    cu_q = at::searchsorted(sorted, at::arange(parts + 1, index.options()), /*out_int32=*/true);
    cu_k = at::arange(0, (parts + 1) * chunk, chunk, index.options().dtype(at::kInt));
    // A bound instead of the true maximum, which would have to be waited for: a row selects a chunk once. At least 2, because the varlen
    // attention takes 1 for decoding with one row a part.
    max_q = std::max<int64_t>(rows, 2);
    max_k = chunk;
  }

  // [n,T,H,D] -> one row of heads a pair, [P,heads,D].
  at::Tensor to_pairs(const at::Tensor& x) const { return fold(x).index_select(0, row); }
  // [n,T,Hw,N] -> [P,heads or 1,1] fp32.
  at::Tensor weights(const at::Tensor& w, int64_t index_heads) const {
    return in_slots(w, index_heads).flatten(0, 1).index_select(0, order).unsqueeze(-1);
  }
  // [P,...] in chunk order -> [units*rows, N, ...], 0 in unused slots, whatever stood there.
  at::Tensor to_slots(const at::Tensor& x) const {
    std::vector<int64_t> shape(static_cast<size_t>(x.dim()), 1);
    shape[0] = unused.numel();
    return x.index_select(0, inverse).masked_fill_(unused.view(shape), 0).unflatten(0, {units * rows, slots});
  }
  // [n,T,H,D] -> [units*rows, heads, D] and back.
  at::Tensor fold(const at::Tensor& x) const {
    const int64_t n = x.size(0), groups = units / n;
    return x.reshape({n, rows, groups, heads, x.size(3)}).transpose(1, 2).reshape({units * rows, heads, x.size(3)});
  }
  at::Tensor unfold(const at::Tensor& x, int64_t n) const {
    const int64_t groups = units / n;
    return x.reshape({n, groups, rows, heads, x.size(2)}).transpose(1, 2).reshape({n, rows, groups * heads, x.size(2)});
  }
  // Weights by slot: [units*rows, N, heads or 1], fp32.
  at::Tensor in_slots(const at::Tensor& w, int64_t index_heads) const {
    const int64_t n = w.size(0), groups = units / n;
    at::Tensor x = w.to(at::kFloat);
    if (x.size(2) == 1) {
      x = x.unsqueeze(2).expand({n, rows, groups, 1, slots});
    } else if (x.size(2) == groups * heads) {  // per query head
      x = x.reshape({n, rows, groups, heads, slots});
    } else if (index_heads > 1) {  // per K/V head, groups folded
      x = x.unsqueeze(3);
    } else {  // per K/V head, groups side by side
      x = x.unsqueeze(2).repeat_interleave(heads / x.size(2), 3);
    }
    return x.permute({0, 2, 1, 4, 3}).reshape({units * rows, slots, x.size(3)}).masked_fill(unused.view({-1, slots, 1}), 0);
  }
  // The adjoint of in_slots: [units*rows, N, heads] of every head -> [n,T,Hw,N].
  at::Tensor from_slots(const at::Tensor& x, int64_t n, int64_t Hw, int64_t index_heads) const {
    const int64_t groups = units / n, H = groups * heads;
    const at::Tensor all = x.reshape({n, groups, rows, slots, heads}).permute({0, 2, 1, 4, 3}).reshape({n, rows, H, slots});
    return Hw == H ? all : all.reshape({n, rows, Hw, H / Hw, slots}).sum(3);
  }
};

// [n,C*S,G,D] -> keys of the parts one after another, [n*Gi*C*S, G/Gi, D].
at::Tensor fold_keys(const at::Tensor& k, int64_t index_heads) {
  const int64_t n = k.size(0), M = k.size(1), G = k.size(2), D = k.size(3);
  return index_heads == 1 ? k.reshape({n * M, G, D}) : k.transpose(1, 2).reshape({n * G * M, 1, D});
}
at::Tensor unfold_keys(const at::Tensor& dk, int64_t n, int64_t M, int64_t G, int64_t index_heads) {
  const int64_t D = dk.size(2);
  return index_heads == 1 ? dk.reshape({n, M, G, D}) : dk.reshape({n, G, M, D}).transpose(1, 2);
}

// The operands of one block.
struct Cut {
  at::Tensor q, k, v, index, weight;
  Cut(const Block& at, const HsaShape& z, const at::Tensor& q_, const at::Tensor& k_, const at::Tensor& v_, const at::Tensor& index_,
      const at::Tensor& weight_) {
    const auto rows = [&](const at::Tensor& x) { return x.narrow(0, at.b, at.sequences).narrow(1, at.t, at.rows); };
    const auto keys = [&](const at::Tensor& x) { return x.narrow(0, at.b, at.sequences).narrow(1, 0, z.chunks * z.chunk); };
    q = rows(q_), index = rows(index_), weight = rows(weight_);
    k = fold_keys(keys(k_), z.index_heads), v = fold_keys(keys(v_), z.index_heads);
  }
};

}  // namespace

const VarlenEngine kFlashEngine = {flash_forward, flash_backward};

at::Tensor hsa_pairs_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& index,
                             const at::Tensor& weight, int64_t chunk, const VarlenEngine& engine, BlockLimit limit) {
  const HsaShape z = hsa_shape(q, k, v, index, weight, chunk);
  at::Tensor o = at::zeros(q.sizes(), q.options());
  if (z.chunks == 0 || z.slots == 0) return o;
  for (const Block& at : blocks_of(z, z.slots * z.heads * z.width, limit.elements)) {
    const Cut x(at, z, q, k, v, index, weight);
    const Pairs pairs(x.index, z.heads / z.index_heads, z.width, chunk, z.chunks);
    const VarlenResult result = engine.forward(pairs.to_pairs(x.q), x.k, x.v, pairs.cu_q, pairs.cu_k, pairs.max_q, pairs.max_k);
    // [rows,N,heads,D] times [rows,N,heads or 1,1], summed over the slots in fp32.
    const at::Tensor mixed = (pairs.to_slots(result.o) * pairs.in_slots(x.weight, z.index_heads).unsqueeze(-1)).sum(1);
    o.narrow(0, at.b, at.sequences).narrow(1, at.t, at.rows).copy_(pairs.unfold(mixed, at.sequences));
  }
  return o;
}

HsaGradients hsa_pairs_backward(const at::Tensor& grad_o, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                const at::Tensor& index, const at::Tensor& weight, int64_t chunk, const VarlenEngine& engine,
                                BlockLimit limit) {
  const HsaShape z = hsa_shape(q, k, v, index, weight, chunk);
  HsaGradients out = {at::zeros(q.sizes(), q.options()), at::zeros(k.sizes(), k.options().dtype(at::kFloat)),
                      at::zeros(v.sizes(), v.options().dtype(at::kFloat)), at::zeros(weight.sizes(), weight.options())};
  if (z.chunks > 0 && z.slots > 0) {
    const int64_t M = z.chunks * chunk;
    for (const Block& at : blocks_of(z, z.slots * z.heads * z.width, limit.elements)) {
      const Cut x(at, z, q, k, v, index, weight);
      const Pairs pairs(x.index, z.heads / z.index_heads, z.width, chunk, z.chunks);
      const at::Tensor q_pairs = pairs.to_pairs(x.q);
      const VarlenResult saved = engine.forward(q_pairs, x.k, x.v, pairs.cu_q, pairs.cu_k, pairs.max_q, pairs.max_k);
      const at::Tensor g = pairs.to_pairs(grad_o.narrow(0, at.b, at.sequences).narrow(1, at.t, at.rows).to(q.scalar_type()));
      // dw_k = <g, o_k>; the gradient of o_k is w_k g.
      const at::Tensor dw = pairs.to_slots((g.to(at::kFloat) * saved.o).sum(-1));
      const at::Tensor grad = (g * pairs.weights(x.weight, z.index_heads)).to(q.scalar_type());
      const auto [dq, dk, dv] = engine.backward(grad, q_pairs, x.k, x.v, saved, pairs.cu_q, pairs.cu_k, pairs.max_q, pairs.max_k);
      const auto rows_of = [&](const at::Tensor& t) { return t.narrow(0, at.b, at.sequences).narrow(1, at.t, at.rows); };
      rows_of(out.q).copy_(pairs.unfold(pairs.to_slots(dq).sum(at::IntArrayRef{1}, false, at::kFloat), at.sequences));
      rows_of(out.weight).copy_(pairs.from_slots(dw, at.sequences, z.weight_heads, z.index_heads));
      // Parts without a pair: whatever the attention left there is none of ours.
      const at::Tensor idle = pairs.cu_q.narrow(0, 1, pairs.parts).eq(pairs.cu_q.narrow(0, 0, pairs.parts)).repeat_interleave(chunk);
      const auto add = [&](at::Tensor& to, const at::Tensor& d) {
        const at::Tensor clean = d.to(at::kFloat).masked_fill(idle.view({-1, 1, 1}), 0);
        to.narrow(0, at.b, at.sequences).narrow(1, 0, M).add_(unfold_keys(clean, at.sequences, M, z.groups, z.index_heads));
      };
      add(out.k, dk);
      add(out.v, dv);
    }
  }
  out.k = out.k.to(k.scalar_type()), out.v = out.v.to(v.scalar_type());
  return out;
}

}  // namespace cairn
