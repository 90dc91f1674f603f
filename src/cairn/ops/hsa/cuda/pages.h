// Memory attention of one token a row over pages: what the kernel takes. Contract: ops/hsa/pages.h. No torch.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace cairn::hsa_cuda {

constexpr int kMostPagesFew = 64, kMostPages = 512;  // the table travels with the parameters
constexpr int kMostSlots = 128;

struct PagesParams {
  const void* q;                                                 // bf16 [B,H,D], rows q_stride numbers apart
  const float* gain;                                             // [D]
  const int64_t* index;                                          // [B,Gi,N] contiguous
  const float* score;                                            // [B,Gi,N] contiguous
  void* o;                                                       // bf16 [B,H,D] contiguous
  int64_t q_stride, first_chunk, chunks, chunk_stride;           // numbers from chunk to chunk; chunks of all pages
  int batch, heads, groups, head_dim, chunk, slots, selections;  // B, H, G, D, S, N, Gi
  int page_count;
  float scale;  // 1 / sqrt(D)
  bool stick_breaking, off_by_one;
  bool ahead;  // ops/cuda/dependent.cuh
};

// Chunk c of row b (numbered from the memory's first one): at b batch_stride + (c - begin) chunk_stride of its page.
template <int MOST>
struct PageTable {
  static constexpr int kMost = MOST;
  static constexpr bool kBytes = false;
  const void *k[MOST], *v[MOST];
  int64_t begin[MOST], batch_stride[MOST];
};
// 8-bit rows (ops/quantize/rows.h): their scales (bf16) stand at the same place, divided by D.
template <int MOST>
struct Int8PageTable : PageTable<MOST> {
  static constexpr bool kBytes = true;
  const uint16_t *k_scale[MOST], *v_scale[MOST];
};

// Table: a PageTable or an Int8PageTable of kMostPagesFew or kMostPages.
template <typename Table>
cudaError_t launch_pages(const PagesParams& params, const Table& pages, cudaStream_t stream);

}  // namespace cairn::hsa_cuda
