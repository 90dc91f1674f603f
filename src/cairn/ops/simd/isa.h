// The instruction sets for which the CPU operators are compiled; chosen when the program runs.
#pragma once

namespace cairn {

enum class Isa { kGeneric = 0, kAvx2 = 1, kAvx512 = 2 };

// The best set of this machine, at most the limit.
Isa cpu_isa();
const char* isa_name(Isa isa);
// Caps cpu_isa(), so that tests and measurements reach every path; not to be called while operators run.
void limit_isa(Isa most);

}  // namespace cairn
