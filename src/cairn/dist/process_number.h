// Whether this process was started together with others: asked of the environment alone, nobody is met.
#pragma once

#include <cstdint>

namespace cairn {

struct ProcessNumber {
  int64_t rank = 0, size = 1;
};
// By the variables of torchrun, mpirun or srun. UserError if they are incomplete or malformed.
ProcessNumber process_number();

}  // namespace cairn
