// A memory dealt out to several processes: each holds the landmarks, keys and values of some chunks, all hold the same small rest of a
// state and run the same upper half. What a retrieval chooses is merged from every process's own best; what is read of the chosen chunks is
// handed round.
//
// All processes call these together, with queries and indices that are the same in all.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "cairn/dist/world.h"
#include "cairn/memory/chunk_memory.h"
#include "cairn/ops/select/select.h"

namespace cairn {

struct MemoryShares {
  World* world = nullptr;  // null: one process holds all
  int64_t chunks = 0;      // of all shares together
  int64_t chunk = 64, kv_heads = 1, head_dim = 64;
  at::ScalarType type = at::kFloat;  // of keys and values
};

// The selection in the whole memory from each process's selection in its share (absolute chunk numbers below 2^31), both at least the best
// `slots` of their chunks: bit for bit what selecting in one memory gives from the same scores, the tie rule included. index, score
// [B,L,Q,slots].
Selection merge_shares(const Selection& own, int64_t slots, World& world);

// Keys and values [B,U*S,G,D] of every chunk named in `index` (absolute numbers, -1 unused), each from the process that holds it,
// and `index` renumbered into them. On a GPU with few slots nothing waits.
void gather_shares(const ChunkMemory& own, const MemoryShares& shares, const at::Tensor& index, at::Tensor* k, at::Tensor* v,
                   at::Tensor* renumbered);

// Process `root`'s tensor in all processes; undefined stays undefined, and shapes need not be known. device: where it is to be.
void share_tensor(at::Tensor* tensor, at::Device device, int64_t root, World& world);

}  // namespace cairn
