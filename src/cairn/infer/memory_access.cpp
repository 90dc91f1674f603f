#include "cairn/infer/memory_access.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <limits>
#include <tuple>
#include <utility>

#include "cairn/core/error.h"

namespace cairn {
namespace {

int64_t most_excluded(const std::vector<std::vector<int64_t>>& excluded) {
  size_t most = 0;
  for (const auto& row : excluded) most = std::max(most, row.size());
  return static_cast<int64_t>(most);
}

}  // namespace

Selection without_chunks(const Selection& selection, const std::vector<std::vector<int64_t>>& excluded, int64_t top_k) {
  const at::Tensor& index = selection.index;
  CAIRN_CHECK(static_cast<int64_t>(excluded.size()) == index.size(0), "{} lists, {} rows", excluded.size(), index.size(0));
  at::Tensor kept = index >= 0;
  for (int64_t row = 0; row < index.size(0); ++row) {
    for (const int64_t chunk : excluded[row]) kept.select(0, row).logical_and_(index.select(0, row) != chunk);
  }
  // Nearest first and a stable sort: equal scores fall to the more recent chunk, as everywhere.
  const at::Tensor score = selection.score.masked_fill(kept.logical_not(), -std::numeric_limits<double>::infinity());
  const int64_t n = std::min(top_k, index.size(3));
  const at::Tensor best = std::get<1>(score.sort(/*stable=*/true, -1, /*descending=*/true)).narrow(-1, 0, n);
  const at::Tensor number = at::where(kept, index, at::full({}, -1, index.options())).gather(-1, best);
  const auto [sorted, order] = number.sort(-1, /*descending=*/true);
  return {sorted, selection.score.gather(-1, best).gather(-1, order).masked_fill(sorted < 0, 0)};
}

PagedAccess::PagedAccess(const ChunkMemory& memory, AskOptions ask, const MemoryShares& shares)
    : memory_(memory), shares_(shares), ask_(std::move(ask)) {
  if (ask_.want_mass && shares_.world != nullptr) throw UserError("attention masses need the whole memory in one process; start one only");
  if (ask_.want_mass && memory.chunks() > 0) all_ = memory.copy(memory.first_chunk(), memory.chunks());
}

Retrieved PagedAccess::retrieve(const at::Tensor& rq, int64_t top_k, const Visibility& visibility, RetrievalTrace*) {
  const int64_t more = most_excluded(ask_.excluded);
  Selection selection = memory_.select(rq, top_k + more, visibility);
  if (shares_.world != nullptr) selection = merge_shares(selection, std::min(top_k + more, shares_.chunks), *shares_.world);
  if (more > 0) selection = without_chunks(selection, ask_.excluded, top_k);
  at::Tensor score = selection.score;
  return {std::move(selection), std::move(score)};
}

void PagedAccess::gather(const at::Tensor& index, at::Tensor* k, at::Tensor* v, at::Tensor* local_index) {
  if (shares_.world != nullptr) return gather_shares(memory_, shares_, index, k, v, local_index);
  if (!all_.k.defined()) return memory_.gather(index, k, v, local_index);
  *k = all_.k;
  *v = all_.v;
  *local_index = at::where(index >= 0, index - memory_.first_chunk(), index);
}

const ChunkPages* PagedAccess::pages() {
  if (all_.k.defined() || memory_.chunks() == 0 || shares_.world != nullptr) return nullptr;
  if (pages_.k.empty()) pages_ = memory_.chunk_pages();
  return &pages_;
}

}  // namespace cairn
