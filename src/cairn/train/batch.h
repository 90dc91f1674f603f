// Training batches, made ahead by threads. The batch of step s holds samples s*B .. s*B + B - 1 (B sequences of all processes together;
// each process its own part), so that its content is a function of (seed, step, length) alone, whatever the number of threads.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cairn/dist/world.h"
#include "cairn/tasks/task_set.h"

namespace cairn {

struct Batch {
  at::Tensor tokens;     // int64 [B,L]
  at::Tensor target;     // int64 [B,L]: the token that row t predicts
  at::Tensor weight;     // fp32 [B,L]
  at::Tensor source;     // int64 [B,L,2]: chunk numbers where that token is stated, -1 = none
  at::Tensor key;        // int64 [B,L]: class of Sample::key, 1 .. kKeyClasses - 1; 0 = none
  at::Tensor is_answer;  // bool [B,L]
  at::Tensor task;       // int64 [B]: number of the task in the loader's list
  at::Tensor rows;       // int64 [B L]: numbers b L + t of the rows with a visible source, rising; -1 behind the last
  int64_t first = 0;     // number of its first sample in the run
  int64_t room = 0;      // so many of `rows` hold all that are not -1; one of few numbers, so that shapes seldom change
  at::Tensor packed;     // uint8: the memory of all of the above, so that a batch travels in one copy
  // Views of `packed`, which holds batch_bytes(sequences, length).
  static Batch of(const at::Tensor& packed, int64_t sequences, int64_t length, int64_t first, int64_t room);
  Batch to(at::Device device) const;  // asynchronous from pinned memory
};
int64_t batch_bytes(int64_t sequences, int64_t length);

// Samples first .. first + count - 1 as one batch. `pinned`: page-locked host memory.
Batch make_batch(const TaskSet& tasks, const std::vector<std::string>& task_names, uint64_t seed, int64_t first, int64_t count,
                 int64_t length, int64_t chunk, bool pinned = false);

struct BatchPlan {
  uint64_t seed = 1;
  int64_t batch_tokens = 65'536;  // of all processes
  int64_t chunk = 64;
  std::vector<std::string> task_names;  // numbering of Batch::task
  int64_t rank = 0, world_size = 1;
  int threads = 1;
  bool pinned = false;
};

class BatchLoader {
 public:
  BatchLoader(std::shared_ptr<const TaskSet> tasks, BatchPlan plan);
  ~BatchLoader();  // ends the threads
  // The batch of `step` at `length`; waits for it. Steps are expected in order; a changed length discards what was made ahead.
  // Errors of the generators (UserError) come out here.
  Batch next(int64_t step, int64_t length);
  // Sequences that this process has in a batch of that length.
  int64_t sequences(int64_t length) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace cairn
