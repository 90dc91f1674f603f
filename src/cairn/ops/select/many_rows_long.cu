#include "cairn/ops/select/many_rows.cuh"

namespace cairn::select_cuda {

cudaError_t launch_long_lists(const Params& p, const Memory& memory, cudaStream_t stream) {
  return launch_many<LongLists>(p, memory, stream);
}

}  // namespace cairn::select_cuda
