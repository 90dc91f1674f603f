// Launch functions of the kernels in this folder. `stream` is a cudaStream_t. Each returns cudaGetLastError() after its launches.
#pragma once

#include <cuda_runtime_api.h>

#include "cairn/ops/hsa/cuda/params.h"

namespace cairn::hsa_cuda {

// Bytes of workspace for sorting `pairs` pairs, and the sort: fills keys and values (each 2 * pairs numbers: two buffers), zeroes
// `counters` (bytes), and sets p.keys and p.pairs to the sorted lists.
size_t inversion_workspace_bytes(int64_t pairs);
cudaError_t launch_inversion(Params* p, uint32_t* keys, uint32_t* values, void* workspace, size_t workspace_bytes, void* counters,
                             size_t counter_bytes, cudaStream_t stream);

// The same for the forward where union order may be taken: counted rather than sorted (the order of a chunk's pairs does not matter there),
// by kernels that do nothing if union order was found to be better. keys and pairs: one buffer each. Needs the plan, and few enough chunks.
bool counting_fits(const Params& p);
size_t counting_workspace_bytes(const Params& p);
cudaError_t launch_counting_inversion(Params* p, uint32_t* keys, uint32_t* pairs, void* workspace, size_t workspace_bytes, void* counters,
                                      size_t counter_bytes, cudaStream_t stream);

// D in {32, 64, 96, 128}; `processors` multiprocessors of the device.
template <int kD>
cudaError_t launch_forward(const Params& p, int processors, cudaStream_t stream);
template <int kD>
cudaError_t launch_backward(const Params& p, int processors, cudaStream_t stream);

// The forward in union order; needs no inversion and no workspace. And the question whether it is the better order for this selection:
// writes 1 or 0 to *in_union_order, a few samples of the index tensor wide.
cudaError_t launch_union_forward(const Params& p, int processors, cudaStream_t stream);
cudaError_t launch_sharing(const Params& p, int* in_union_order, cudaStream_t stream);

// The forward for few rows of queries, without inversion and workspace; needs the sizes (R too), q, k, v, index, weight, o, lse.
cudaError_t launch_few_rows(const Params& p, cudaStream_t stream);

// dk, dv (bf16, [B,M,G,D] contiguous) from the fp32 sums of the backward, or of its runs; keys from C*S on become zero.
cudaError_t launch_finish_keys(const Params& p, int64_t M, void* dk, void* dv, cudaStream_t stream);

// `starts` and, unless null, `before` of Params from the sorted lists, into memory of these sizes.
cudaError_t launch_starts(Params* p, unsigned int* starts, unsigned int* before, cudaStream_t stream);

// Sets the dynamic shared memory of a kernel and asks how many thread blocks of it the device holds at a time.
template <typename Kernel>
cudaError_t persistent_grid(Kernel* kernel, int threads, int processors, const Params& p, int* grid) {
  cudaError_t error =
      cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, p.shared_bytes);
  if (error != cudaSuccess) return error;
  int each = 0;
  error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, reinterpret_cast<const void*>(kernel), threads,
                                                        static_cast<size_t>(p.shared_bytes));
  const int64_t all = static_cast<int64_t>(each) * processors, tickets = p.blocks * (static_cast<int64_t>(p.main_items) + p.reduce_items);
  *grid = static_cast<int>(all < tickets ? all : tickets);
  return error;
}

}  // namespace cairn::hsa_cuda
