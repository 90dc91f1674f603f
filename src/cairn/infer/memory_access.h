// How the upper half reaches the pages of a memory.
#pragma once

#include "cairn/infer/reader.h"
#include "cairn/infer/shares.h"
#include "cairn/memory/chunk_memory.h"
#include "cairn/model/model.h"

namespace cairn {

class PagedAccess final : public MemoryAccess {
 public:
  // The memory must outlive this; with shares.world it is this process's share.
  explicit PagedAccess(const ChunkMemory& memory, AskOptions ask = {}, const MemoryShares& shares = {});

  Retrieved retrieve(const at::Tensor& rq, int64_t top_k, const Visibility& visibility, RetrievalTrace* trace) override;
  void gather(const at::Tensor& index, at::Tensor* k, at::Tensor* v, at::Tensor* local_index) override;
  const ChunkPages* pages() override;

 private:
  const ChunkMemory& memory_;
  const MemoryShares shares_;
  AskOptions ask_;
  ChunkPages pages_;   // once asked for
  ChunkEncoding all_;  // of the whole memory, when masses are wanted
};

// The best top_k of a selection (index int64 [B,L,Q,N], nearest first) without the chunks of `excluded` [B][...]: what selecting among the
// other chunks would have given, if `selection` holds at least top_k + |excluded| of what is visible, or all of it.
Selection without_chunks(const Selection& selection, const std::vector<std::vector<int64_t>>& excluded, int64_t top_k);

}  // namespace cairn
