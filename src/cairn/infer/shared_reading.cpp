#include "cairn/infer/shared_reading.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <utility>

#include "cairn/core/error.h"
#include "cairn/infer/shares.h"

namespace cairn {
namespace {

// The head of what process 0 says: tokens of the part (0: the end, kStillHere: none yet), position or exit code, whether the state goes
// with it.
constexpr int64_t kHead = 3, kStillHere = -1;

at::Tensor head_of(int64_t count, int64_t position, bool with_state) {
  at::Tensor head = at::zeros({kHead}, at::kLong);
  int64_t* h = head.data_ptr<int64_t>();
  h[0] = count, h[1] = position, h[2] = with_state ? 1 : 0;
  return head;
}

int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

}  // namespace

ChunkEncoding copy_to_host(const ChunkMemory& memory, int64_t first, int64_t count) {
  ChunkEncoding chunks = memory.copy(first, count);
  for (at::Tensor* x : {&chunks.landmarks, &chunks.k, &chunks.v}) {
    if (x->is_cuda()) *x = at::empty(x->sizes(), at::TensorOptions(x->scalar_type()).pinned_memory(true)).copy_(*x, /*non_blocking=*/true);
  }
  return chunks;
}

std::function<void()> wait_for_device(at::Device device) {
  if (device.is_cpu()) return [] {};
  auto event = std::make_shared<c10::Event>(device.type());
  event->record(c10::impl::VirtualGuardImpl(device.type()).getStream(device));
  return [event] { event->synchronize(); };
}

SharedReading::SharedReading(const Reader& reader, World& world, int64_t share_tokens) : reader_(reader), world_(world) {
  constexpr int64_t kRunUps = 8;  // a share is so many times what it runs over first
  const ModelConfig& config = reader.model().config();
  CAIRN_CHECK(reader.world() == nullptr, "a reader that shares its memory reads in shares by itself");
  block_ = std::max<int64_t>(1, reader.segment_tokens() / config.chunk) * config.chunk;
  run_up_ = round_up(config.lower_reach() + config.upper_reach(), block_) + block_;
  const int64_t page = ChunkMemory::kLargestPage * config.chunk, wanted = share_tokens > 0 ? share_tokens : kRunUps * run_up_;
  share_ = round_up(wanted, share_tokens == 0 && page % block_ == 0 ? page : block_);  // whole pages where blocks fill them
}

void SharedReading::send_state(ReaderState* state, int64_t root) {
  state->lower.resize(static_cast<size_t>(reader_.model().config().lower_layers));
  for (WindowCache& cache : state->lower) {
    share_tensor(&cache.k, reader_.device(), root, world_);
    share_tensor(&cache.v, reader_.device(), root, world_);
  }
  share_tensor(&state->partial, reader_.device(), root, world_);
  share_tensor(&state->tail, reader_.device(), root, world_);
}

std::vector<ChunkEncoding> SharedReading::read(ReaderState& state, std::span<const int32_t> ids, const std::function<bool()>& go_on) {
  const int64_t count = std::ssize(ids);
  CAIRN_CHECK(count > 0 && state.end % state.chunk == 0 && state.memory.chunks() == 0, "a part of {} tokens behind {}", count, state.end);
  at::Tensor head = head_of(count, state.end, !known_);
  world_.broadcast(head, 0);
  if (!std::exchange(known_, true)) send_state(&state, 0);
  at::Tensor all = at::empty({count}, at::kInt);
  std::copy(ids.begin(), ids.end(), all.data_ptr<int32_t>());
  world_.broadcast(all, 0);
  return take_part(state, count, {ids.begin(), ids.end()}, go_on);
}

void SharedReading::end(int exit_code) {
  at::Tensor head = head_of(0, exit_code, false);
  world_.broadcast(head, 0);
}

void SharedReading::still_here() {
  at::Tensor head = head_of(kStillHere, 0, false);
  world_.broadcast(head, 0);
}

int SharedReading::follow() {
  ReaderState state(reader_.model().config(), 1, 0);
  for (;;) {
    at::Tensor head = head_of(0, 0, false);
    world_.broadcast(head, 0);
    const int64_t* h = head.const_data_ptr<int64_t>();
    if (h[0] == 0) return static_cast<int>(h[1]);
    if (h[0] == kStillHere) continue;
    state.end = h[1];
    if (h[2] != 0) send_state(&state, 0);
    at::Tensor all = at::empty({h[0]}, at::kInt);
    world_.broadcast(all, 0);
    const int32_t* ids = all.const_data_ptr<int32_t>();
    take_part(state, h[0], {ids, ids + h[0]}, {});
  }
}

std::vector<ChunkEncoding> SharedReading::take_part(ReaderState& state, int64_t count, const std::vector<int32_t>& ids,
                                                    const std::function<bool()>& go_on) {
  const at::NoGradGuard no_gradient;
  const ModelConfig& config = reader_.model().config();
  const int64_t start = state.end, chunk = config.chunk, size = world_.size(), rank = world_.rank();
  // As one process would cut it, whole blocks each; a short part leaves some without work.
  const int64_t blocks = (count + block_ - 1) / block_, each = (blocks + size - 1) / size * block_, last = (count - 1) / each;
  const auto begin_of = [&](int64_t r) { return std::min(r * each, count); };
  const auto from_of = [&](int64_t r) { return std::max<int64_t>(0, begin_of(r) - run_up_); };
  const int64_t begin = begin_of(rank), stop = begin_of(rank + 1), from = from_of(rank);
  const TokenFetch fetch = [&](int64_t, int64_t at, std::span<int32_t> out) {
    std::copy_n(ids.begin() + (at - start), out.size(), out.begin());
  };

  std::unique_ptr<ReaderState> own;
  if (begin < stop) {
    if (from == 0) {  // behind all that came before
      own = state.fork();
      own->memory = ChunkMemory(config, 1, start / chunk);
    } else {
      own = reader_.new_reader_state(1, start + from);
    }
  }
  // Block by block, as one call would cut it. A part may take a slow machine minutes: whoever asked process 0 to stop waits for a block
  // only.
  int64_t steps = 0;  // of who has most
  for (int64_t r = 0; r < size; ++r) {
    if (begin_of(r) < count) steps = std::max(steps, (begin_of(r + 1) - from_of(r) + block_ - 1) / block_);
  }
  for (int64_t step = 0, at = from; step < steps; ++step) {
    if (step > 0) {
      at::Tensor stopped = at::zeros({1}, at::kLong);
      if (rank == 0 && go_on && !go_on()) stopped.fill_(1);
      world_.broadcast(stopped, 0);
      if (stopped.item<int64_t>() != 0) return stop_inside(state, own.get());
    }
    if (own == nullptr || at >= stop) continue;
    const int64_t n = std::min(block_, stop - at);
    reader_.read(*own, n, fetch);
    at += n;
    if (at == begin) own->memory = ChunkMemory(config, 1, (start + begin) / chunk);
  }

  // Everyone hears everyone's chunks; process 0 keeps them.
  std::vector<ChunkEncoding> chunks;
  for (int64_t r = 0; r < size; ++r) {
    const int64_t first = (start + begin_of(r)) / chunk, end = (start + begin_of(r + 1)) / chunk;
    for (int64_t at = first; at < end; at += ChunkMemory::kLargestPage) {
      ChunkEncoding some;
      if (r == rank) some = copy_to_host(own->memory, at, std::min(end - at, ChunkMemory::kLargestPage));
      if (r == rank) wait_for_device(reader_.device())();
      if (r != 0) {
        for (at::Tensor* x : {&some.landmarks, &some.k, &some.v}) share_tensor(x, at::kCPU, r, world_);
      }
      if (rank == 0) chunks.push_back(std::move(some));
    }
  }

  // What lies behind the part, from the process that has read its end.
  if (rank == last) {
    state.lower = own->lower;
    state.partial = own->partial;
    state.tail = own->tail;
  }
  send_state(&state, last);
  state.end = start + count;
  state.memory = ChunkMemory(config, 1, state.end / chunk);
  state.upper_valid = false;
  return chunks;
}

// Process 0 keeps what it has read itself, from the part's beginning on; what the others have is dropped.
std::vector<ChunkEncoding> SharedReading::stop_inside(ReaderState& state, const ReaderState* own) {
  if (world_.rank() != 0) return {};
  std::vector<ChunkEncoding> chunks;
  const int64_t end = own->memory.end_chunk();
  for (int64_t at = own->memory.first_chunk(); at < end; at += ChunkMemory::kLargestPage) {
    chunks.push_back(copy_to_host(own->memory, at, std::min(end - at, ChunkMemory::kLargestPage)));
  }
  wait_for_device(reader_.device())();
  state.lower = own->lower, state.partial = own->partial, state.tail = own->tail;
  state.end = own->end;
  state.memory = ChunkMemory(reader_.model().config(), 1, end);
  state.upper_valid = false;
  forget();
  return chunks;
}

}  // namespace cairn
