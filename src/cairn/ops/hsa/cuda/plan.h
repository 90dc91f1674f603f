// How a memory attention is cut into blocks and items (words: params.h), and the workspace that this takes.
#pragma once

#include <cstdint>

#include "cairn/ops/hsa/cuda/params.h"

namespace cairn::hsa_cuda {

// What tests and measurements may set; 0: chosen by plan().
struct PlanOptions {
  int64_t block_rows = 0;
  int32_t item_pairs = 0, ring = 0, delay = 0;
  int64_t most_run_bytes = 0;
  int32_t lanes = 0;  // the most heads of a group whose rows come by lanes; below 0: none
};

struct Workspace {
  int64_t partial_bytes = 0, dot_bytes = 0, counter_bytes = 0;  // Params: partial; partial_dot; ticket, main_done, reduce_done, turn
  int64_t starts = 0, before = 0;                               // elements
  int64_t run_bytes = 0;                                        // of runs
  int64_t copies = 1;                                           // of dk and dv; none where runs keep their sums
};

// Whether the kernels take these sizes at all: D, R, S, and numbers of pairs and keys that fit 32 bits.
bool plan_possible(const Params& p, bool backward);

// Whether the forward is better off with launch_few_rows: so few pairs that hardly two of them share a chunk, or that the launches of the
// inversion would take longer than the work.
bool few_rows(const Params& p);

// Fills the order of work in *p from the sizes there (shapes set, tensors not needed). ordered: dk and dv added up in a fixed order.
Workspace plan(Params* p, bool backward, bool ordered, int processors, const PlanOptions& options = {});

// Points the counters of *p into `counters` (counter_bytes).
void set_counters(Params* p, void* counters, bool with_turns);

}  // namespace cairn::hsa_cuda
