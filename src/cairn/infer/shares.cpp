#include "cairn/infer/shares.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/_unique2.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bincount.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <vector>

#include "cairn/core/error.h"

namespace cairn {
namespace {

constexpr int64_t kFewSlots =
    4096;  // on a GPU so many are handed round one by one, and nothing waits; else a chunk that several chose travels once

// Every chunk that a row names once: chunk [B,U] (-1 unused), and the index renumbered into them.
struct Wanted {
  at::Tensor chunk, renumbered;
};

Wanted wanted_chunks(const at::Tensor& index) {
  const int64_t B = index.size(0), slots = index.numel() / B;
  const at::TensorOptions longs = index.options();
  if (index.is_cuda() && index.numel() <= kFewSlots) {
    const at::Tensor place = at::arange(slots, longs).expand({B, slots}).reshape(index.sizes());
    return {index.reshape({B, slots}), at::where(index >= 0, place, index)};
  }
  const at::Tensor flat = index.reshape({-1}), used = at::nonzero(flat >= 0).view({-1});
  const int64_t span = flat.max().item<int64_t>() + 1;
  if (span <= 0) return {at::full({B, 1}, -1, longs), index};
  const at::Tensor row = used.div(slots, "floor");
  const auto [pair, inverse, counts] = at::_unique2(row * span + flat.index_select(0, used), /*sorted=*/true, /*return_inverse=*/true);
  const at::Tensor pair_row = pair.div(span, "floor"), per_row = at::bincount(pair_row, {}, B);
  const at::Tensor rank = at::arange(pair.numel(), longs) - (per_row.cumsum(0) - per_row).index_select(0, pair_row);
  const int64_t width = per_row.max().item<int64_t>();
  Wanted out;
  out.chunk = at::full({B * width}, -1, longs).index_copy_(0, pair_row * width + rank, pair - pair_row * span).view({B, width});
  out.renumbered = at::full(flat.sizes(), -1, longs).index_copy_(0, used, rank.index_select(0, inverse)).view(index.sizes());
  return out;
}

}  // namespace

Selection merge_shares(const Selection& own, int64_t slots, World& world) {
  const at::Tensor keys = selection_keys(own, slots);  // [B,L,Q,slots]
  const at::Tensor all = world.all_gather(keys.unsqueeze(0)).permute({1, 2, 3, 0, 4}).flatten(3);
  return selection_of_keys(all, slots);
}

void gather_shares(const ChunkMemory& own, const MemoryShares& shares, const at::Tensor& index, at::Tensor* k, at::Tensor* v,
                   at::Tensor* renumbered) {
  const Wanted wanted = wanted_chunks(index);
  *renumbered = wanted.renumbered;
  const int64_t B = wanted.chunk.size(0), U = wanted.chunk.size(1), S = shares.chunk, G = shares.kv_heads, D = shares.head_dim;
  const at::TensorOptions options = index.options().dtype(shares.type);
  at::Tensor both;
  if (own.chunks() == 0) {
    both = at::zeros({2, B * U, S * G * D}, options);
  } else {
    const at::Tensor mine = (wanted.chunk >= own.first_chunk()).logical_and(wanted.chunk < own.end_chunk());
    at::Tensor own_k, own_v, slot;
    own.gather(at::where(mine, wanted.chunk, at::full({}, -1, index.options())).view({B, 1, 1, U}), &own_k, &own_v, &slot);
    const int64_t have = own_k.size(1) / S;
    const at::Tensor place = (slot.view({B, U}).clamp_min(0) + at::arange(B, index.options()).unsqueeze(1) * have).flatten();
    const at::Tensor absent = mine.logical_not().view({B * U, 1});
    const auto take = [&](const at::Tensor& x) {
      return x.reshape({B * have, S * G * D}).index_select(0, place).masked_fill_(absent, 0).to(shares.type);
    };
    both = at::stack({take(own_k), take(own_v)});
  }
  shares.world->all_reduce_sum(both);  // one process has a chunk, the others zeros: nothing is rounded
  *k = both.select(0, 0).view({B, U * S, G, D});
  *v = both.select(0, 1).view({B, U * S, G, D});
}

void share_tensor(at::Tensor* tensor, at::Device device, int64_t root, World& world) {
  constexpr int64_t kMostDimensions = 8;
  at::Tensor header = at::zeros({2 + kMostDimensions}, at::kLong);
  int64_t* const h = header.mutable_data_ptr<int64_t>();
  const bool sends = world.rank() == root;
  if (sends && tensor->defined()) {
    CAIRN_CHECK(tensor->dim() >= 1 && tensor->dim() <= kMostDimensions, "{} dimensions", tensor->dim());
    h[0] = tensor->dim();
    h[1] = static_cast<int64_t>(tensor->scalar_type());
    std::copy(tensor->sizes().begin(), tensor->sizes().end(), h + 2);
  }
  world.broadcast(header, root);
  if (h[0] == 0) {
    *tensor = at::Tensor();
    return;
  }
  at::Tensor whole = sends ? tensor->contiguous()
                           : at::empty(at::IntArrayRef(h + 2, static_cast<size_t>(h[0])),
                                       at::TensorOptions(static_cast<at::ScalarType>(h[1])).device(device));
  world.broadcast(whole, root);
  *tensor = whole;
}

}  // namespace cairn
