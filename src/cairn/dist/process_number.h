// Whether this process was started together with others, and by what they would meet: asked of the environment alone, nobody is met.
#pragma once

#include <cstdint>

namespace cairn {

struct ProcessNumber {
  int64_t rank = 0, size = 1;
};
// By the variables of torchrun, mpirun or srun. UserError if they are incomplete or malformed.
ProcessNumber process_number();

// Whether collectives on GPUs can be part of recorded work (a CUDA graph): NCCL's can; with CAIRN_DIST_BACKEND=gloo, or where there is no
// NCCL, tensors pass through main memory.
bool gpu_collectives_can_be_recorded();

}  // namespace cairn
