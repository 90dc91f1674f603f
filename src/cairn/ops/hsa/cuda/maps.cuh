// Descriptions of q, k, v and grad_o for the copy engine.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include "cairn/ops/hsa/cuda/params.h"

namespace cairn::hsa_cuda {

// Boxes: R rows (heads of a group) of 64 columns of q and grad_o, box_keys rows of 64 columns of k and v; columns beyond D read as zero.
struct Maps {
  CUtensorMap q, k, v, grad_o;
};

// grad_o may be missing. cudaErrorNotSupported where the driver does not know tensor maps.
cudaError_t make_maps(const Params& p, Maps* maps);

}  // namespace cairn::hsa_cuda
