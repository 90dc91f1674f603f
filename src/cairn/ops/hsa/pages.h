// Memory attention of one token a row over chunks that lie in pages (decoding), with what stands before it: the norm of the query heads
// and the chunk weights. Nothing is copied: pages may also lie in host memory that the GPU can reach (pinned, or a registered mapping).
//
//   q [B,1,H,D] as projected, gain [D]; pages: k, v [B,c_j,S,G,D] (ops/gather/gather.h); index int64 [B,1,Gi,N], absolute chunk numbers,
//   -1 unused; score fp32 [B,1,Gi,N], clean scores of the selected. Gi is 1 or G.
// Returns o [B,1,H,D] = hsa(norm(q), k, v, index, weights of the scores) (ops/hsa/hsa.h). No gradients. On a GPU bf16 with D in {32, 64,
// 96, 128}, N <= 128 and up to 512 pages is one kernel; other operands are gathered first.
#pragma once

#include <ATen/core/Tensor.h>

#include "cairn/ops/gather/gather.h"

namespace cairn {

struct ChunkWeighting {
  bool stick_breaking = false;  // else softmax over the used slots
  bool off_by_one = false;
};

// Whether there is a kernel for these operands.
bool hsa_pages_supports(const at::Tensor& q, const at::Tensor& gain, const ChunkPages& pages, const at::Tensor& index,
                        const at::Tensor& score);
at::Tensor hsa_pages(const at::Tensor& q, const at::Tensor& gain, const ChunkPages& pages, const at::Tensor& index, const at::Tensor& score,
                     const ChunkWeighting& weighting);
at::Tensor hsa_pages_reference(const at::Tensor& q, const at::Tensor& gain, const ChunkPages& pages, const at::Tensor& index,
                               const at::Tensor& score, const ChunkWeighting& weighting);

}  // namespace cairn
