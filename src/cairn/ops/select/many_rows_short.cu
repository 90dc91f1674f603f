#include "cairn/ops/select/many_rows.cuh"

namespace cairn::select_cuda {

cudaError_t launch_short_lists(const Params& p, const Memory& memory, cudaStream_t stream) {
  return launch_many<ShortLists>(p, memory, stream);
}

}  // namespace cairn::select_cuda
