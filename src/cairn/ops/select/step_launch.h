// Few rows of bf16 as in decoding: as launch_few_rows() and launch_merge() of launch.h, but `ahead` lets the kernels start before what is
// queued in front of them has ended (ops/cuda/dependent.cuh), and a table beside the parameters takes more pages.
#pragma once

#include "cairn/ops/select/launch.h"

namespace cairn::select_cuda {

constexpr int kMostTablePages = 500;
struct PageTable {
  Page pages[kMostTablePages];
};

// Both bf16. table null: the pages in `params`; else its first page_count. position: null, or where on the device lies what params.position
// would be.
cudaError_t launch_few_rows_tensor(const Params& params, const PageTable* table, const int64_t* position, bool ahead, cudaStream_t stream);
cudaError_t launch_merge(const Params& params, bool ahead, cudaStream_t stream);

}  // namespace cairn::select_cuda
