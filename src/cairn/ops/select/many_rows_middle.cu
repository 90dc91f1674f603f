#include "cairn/ops/select/many_rows.cuh"

namespace cairn::select_cuda {

cudaError_t launch_middle_lists(const Params& p, const Memory& memory, cudaStream_t stream) {
  return launch_many<MiddleLists>(p, memory, stream);
}

}  // namespace cairn::select_cuda
