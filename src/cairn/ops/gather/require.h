// Checks of pages of keys and values (gather.h), for the operators that take them.
#pragma once

#include "cairn/ops/gather/gather.h"
#include "cairn/ops/require.h"

namespace cairn {

// CAIRN_CHECKs for operator `op`: there are pages [B,c,S,G,D], values are like keys, and all of them have scales or none.
void require_pages(const char* op, const ChunkPages& pages);

}  // namespace cairn
