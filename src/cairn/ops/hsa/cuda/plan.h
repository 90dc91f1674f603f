// How a memory attention is cut into blocks and items (words: params.h), and the workspace that this takes.
#pragma once

#include <cstdint>

#include "cairn/ops/hsa/cuda/params.h"

namespace cairn::hsa_cuda {

struct Workspace {
  int64_t partial_bytes = 0, dot_bytes = 0, counter_bytes = 0;  // Params: partial; partial_dot; ticket, main_done, reduce_done, turn
  int64_t starts = 0, before = 0;                               // elements
  int64_t run_bytes = 0;                                        // of runs
  int64_t copies = 1;                                           // of dk and dv; none where runs keep their sums
};

// Whether the kernels take these sizes at all: D, R, S, and numbers of pairs and keys that fit 32 bits.
bool plan_possible(const Params& p, bool backward);

// How the forward goes about it.
enum class Order {
  kRow,    // launch_few_rows: so few pairs that hardly two of them share a chunk, or that the launches of others would take longer than the
           // work
  kChunk,  // plan(), launch_inversion, launch_forward
  kUnion,  // launch_union_forward
  kAsk,    // whichever of the last two launch_sharing finds
};

// Union order needs chunks of at most 64 keys and lists that fit shared memory, and pays with 8 heads a group or more; it is taken unasked
// where keys and values are few (kUnionNumbers), or where even tokens that choose at random have enough in common. Fills union_stages and
// union_bytes of *p where it is possible, else leaves 0 (R set).
Order forward_order(Params* p);

// Fills the order of work in *p from the sizes there (shapes set, tensors not needed). ordered: dk and dv added up in a fixed order.
Workspace plan(Params* p, bool backward, bool ordered, int processors);

// Points the counters of *p into `counters` (counter_bytes).
void set_counters(Params* p, void* counters, bool with_turns);

}  // namespace cairn::hsa_cuda
