// Keys and values of selected chunks out of the pages of a memory, for few selected chunks (decoding), without asking the GPU how many
// there are: one place a slot of the index, used or not.
//
// Shapes: pages k, v [B,c_j,S,G,D] each, in order, same strides in both (batch stride 0: one memory for all rows); index int64 [B,L,Gi,N],
// absolute chunk numbers, -1 unused; first_chunk: absolute number of the first page's first chunk.
// Result: k, v [B, L Gi N S, G, D] (unused places 0), index [B,L,Gi,N] renumbered into them (-1 stays -1).
//
// Pages may hold 8-bit rows (ops/quantize/rows.h): k, v int8 with scales bf16 [B,c_j,S,G]. What is gathered of them is dequantised, in
// `type`.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace cairn {

struct ChunkPages {
  std::vector<at::Tensor> k, v;
  int64_t first_chunk = 0;
  std::vector<at::Tensor> k_scale = {}, v_scale = {};  // of int8 pages, one each; else empty
  at::ScalarType type = at::kFloat;
};
struct GatheredChunks {
  at::Tensor k, v, index;
};

// Whether gather_chunks has a kernel for these operands: on a GPU, in a program with kernels, few slots.
bool gather_chunks_supports(const ChunkPages& pages, const at::Tensor& index);
GatheredChunks gather_chunks(const ChunkPages& pages, const at::Tensor& index);
// The same in plain operators; waits for nothing, costs one pass a page.
GatheredChunks gather_chunks_reference(const ChunkPages& pages, const at::Tensor& index);

}  // namespace cairn
