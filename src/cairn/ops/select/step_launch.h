// Few rows of bf16 as in decoding: as launch_few_rows() and launch_merge() of launch.h, but `ahead` lets the kernels start before what is
// queued in front of them has ended (ops/cuda/dependent.cuh), and a table beside the parameters takes more pages.
#pragma once

#include "cairn/ops/select/launch.h"

namespace cairn::select_cuda {

constexpr int kMostTablePages = 500;
struct PageTable {
  Page pages[kMostTablePages];
};

// Pages of 8-bit landmarks (ops/quantize/rows.h), contiguous inside a row b: number (b,i,q,x) at data[b batch_stride +
// ((i - begin) Q + q) Dr + x], its scale (bf16) at the same place of `scale`, divided by Dr. Dr and batch_stride are multiples of 16.
struct Int8Page {
  const int8_t* data;
  const uint16_t* scale;
  int64_t begin, batch_stride;
  int32_t count, first_tile;  // as in Page
};
struct Int8Table {
  Int8Page pages[kMostTablePages];
};

// Both bf16. table null: the pages in `params`; else its first page_count. position: null, or where on the device lies what params.position
// would be.
cudaError_t launch_few_rows_tensor(const Params& params, const PageTable* table, const int64_t* position, bool ahead, cudaStream_t stream);
// bf16 against 8-bit landmarks; the pages are the first params.page_count of the table. A score is (sum of
// the products) scale params.scale; the sum is exact but for the query's numbers below 1/128 of its largest one, which are rounded to 2^-14
// of a power of two not above that.
cudaError_t launch_few_rows_int8(const Params& params, const Int8Table& table, const int64_t* position, bool ahead, cudaStream_t stream);
cudaError_t launch_merge(const Params& params, bool ahead, cudaStream_t stream);

}  // namespace cairn::select_cuda
