// Launch of the gathering kernel. Contract: gather.h. No torch header.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace cairn {

constexpr int kMostGatherPages = 96;  // of a launch: the table travels with its parameters

struct GatherPage {
  const void *k, *v;                   // chunk c of row b: 16-byte words at (b batch_stride + (c - begin) chunk_stride)
  int64_t begin, count;                // its chunks, numbered from the memory's first one
  int64_t batch_stride, chunk_stride;  // in 16-byte words
};
struct GatherParams {
  const int64_t* index;  // [B, slots] absolute chunk numbers
  int64_t* renumbered;   // [B, slots]
  void *k, *v;           // [B, slots, words] of 16 bytes
  int64_t slots, batch, first_chunk, words;
  int64_t begin, end;  // chunks of all pages of this launch
  bool first;          // this launch writes `renumbered` and the zeros of unused slots
  int page_count;
  GatherPage pages[kMostGatherPages];
};
cudaError_t launch_gather(const GatherParams& params, cudaStream_t stream);

}  // namespace cairn
