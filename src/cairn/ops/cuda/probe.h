// Which code of the kernels the current device runs.
#pragma once

namespace cairn::cuda {

bool runs_hopper_code();  // the machine code for compute capability 9.0

}  // namespace cairn::cuda
