#include "cairn/ops/select/many_rows.cuh"

namespace cairn::select_cuda {

cudaError_t launch_short_lists(const Params& p, int most_bytes, cudaStream_t stream) {
  return launch_many<ShortLists>(p, most_bytes, stream);
}

}  // namespace cairn::select_cuda
