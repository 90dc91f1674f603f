// How the upper half reaches the pages of a memory.
#pragma once

#include "cairn/memory/chunk_memory.h"
#include "cairn/model/model.h"

namespace cairn {

class PagedAccess final : public MemoryAccess {
 public:
  explicit PagedAccess(const ChunkMemory& memory) : memory_(memory) {}

  Retrieved retrieve(const at::Tensor& rq, int64_t top_k, const Visibility& visibility, RetrievalTrace*) override {
    Selection selection = memory_.select(rq, top_k, visibility);
    at::Tensor score = selection.score;
    return {std::move(selection), std::move(score)};
  }

  void gather(const at::Tensor& index, at::Tensor* k, at::Tensor* v, at::Tensor* local_index) override {
    memory_.gather(index, k, v, local_index);
  }

 private:
  const ChunkMemory& memory_;
};

}  // namespace cairn
