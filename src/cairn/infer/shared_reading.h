// A text that one process tokenizes and keeps is read by several: the text goes round in parts, every process encodes its share of a part's
// chunks, and process 0 gets them all. Bit for bit what process 0 alone would have read: blocks are cut alike, and who begins inside a part
// first runs over what its beginning can feel (as Reader does for shared memories).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "cairn/infer/reader.h"

namespace cairn {

class SharedReading {
 public:
  // reader: without a world of its own. share_tokens: of a process in each part, a multiple of the chunk; 0: chosen.
  SharedReading(const Reader& reader, World& world, int64_t share_tokens = 0);

  // Tokens of a full part, of all processes together: a multiple of the reader's blocks.
  int64_t part_tokens() const { return share_ * world_.size(); }

  // Process 0. Reads ids behind the text of `state`, which ends on the chunk grid and whose memory is empty. The state is then behind them,
  // its memory still empty; returned are the chunks completed, in order and in main memory, at most ChunkMemory::kLargestPage each. go_on
  // (may be empty) is asked after each of the reader's segments; where it says no the state is behind what process 0 itself had read of ids
  // by then, and the others are where they were.
  std::vector<ChunkEncoding> read(ReaderState& state, std::span<const int32_t> ids, const std::function<bool()>& go_on = {});
  // Process 0: the state went on without the others (or is another one); they need it again.
  void forget() { known_ = false; }
  void end(int exit_code);
  // Process 0, about every second while it has no part yet: nobody waits longer than a collective may take.
  void still_here();

  // The others: takes part until process 0 ends it; returns the exit code.
  int follow();

 private:
  std::vector<ChunkEncoding> take_part(ReaderState& state, int64_t count, const std::vector<int32_t>& ids,
                                       const std::function<bool()>& go_on);
  std::vector<ChunkEncoding> stop_inside(ReaderState& state, const ReaderState* own);
  void send_state(ReaderState* state, int64_t root);

  const Reader& reader_;
  World& world_;
  int64_t block_, run_up_, share_;
  bool known_ = false;  // the others have the state
};

// Copies of chunks first .. first + count (absolute) in main memory; from a GPU into pinned memory, queued behind its work.
ChunkEncoding copy_to_host(const ChunkMemory& memory, int64_t first, int64_t count);
// What the device has been given so far is done when the function that is returned returns.
std::function<void()> wait_for_device(at::Device device);

}  // namespace cairn
