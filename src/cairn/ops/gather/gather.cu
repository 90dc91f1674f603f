// One block a slot of the index: finds the page, copies keys and values 16 bytes at a time.
#include "cairn/ops/gather/launch.h"

namespace cairn {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) gather(const __grid_constant__ GatherParams p) {
  const int64_t place = blockIdx.x, row = place / p.slots;
  const int64_t number = p.index[place], chunk = number - p.first_chunk;
  uint4* const k = static_cast<uint4*>(p.k) + place * p.words;
  uint4* const v = static_cast<uint4*>(p.v) + place * p.words;
  if (p.first && threadIdx.x == 0) p.renumbered[place] = number < 0 ? number : place % p.slots;
  if (number < 0) {
    if (!p.first) return;
    for (int64_t i = threadIdx.x; i < p.words; i += kThreads) k[i] = v[i] = uint4{0, 0, 0, 0};
    return;
  }
  if (chunk < p.begin || chunk >= p.end) return;
  int low = 0, high = p.page_count - 1;  // the last page that begins at or before the chunk
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (p.pages[middle].begin <= chunk) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  const GatherPage& page = p.pages[low];
  const int64_t at = row * page.batch_stride + (chunk - page.begin) * page.chunk_stride;
  const uint4* const from_k = static_cast<const uint4*>(page.k) + at;
  const uint4* const from_v = static_cast<const uint4*>(page.v) + at;
  for (int64_t i = threadIdx.x; i < p.words; i += kThreads) {
    const uint4 a = from_k[i], b = from_v[i];
    k[i] = a;
    v[i] = b;
  }
}

}  // namespace

cudaError_t launch_gather(const GatherParams& params, cudaStream_t stream) {
  gather<<<static_cast<unsigned>(params.batch * params.slots), kThreads, 0, stream>>>(params);
  return cudaGetLastError();
}

}  // namespace cairn
