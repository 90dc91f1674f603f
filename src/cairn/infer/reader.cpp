#include "cairn/infer/reader.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include <algorithm>
#include <utility>

#include "cairn/core/error.h"
#include "cairn/infer/memory_access.h"

namespace cairn {
namespace {

int64_t width(const at::Tensor& x) { return x.defined() ? x.size(1) : 0; }

// The columns of a followed by those of b; a may be undefined.
at::Tensor join(const at::Tensor& a, const at::Tensor& b) { return width(a) == 0 ? b : at::cat({a, b}, 1); }

// A copy of the last n columns, so that what they were cut from can go.
at::Tensor last_columns(const at::Tensor& x, int64_t n) {
  n = std::min(n, x.size(1));
  return x.narrow(1, x.size(1) - n, n).clone();
}

int64_t cache_bytes(const std::vector<WindowCache>& caches) {
  int64_t total = 0;
  for (const WindowCache& cache : caches) {
    if (cache.k.defined()) total += cache.k.nbytes();
    if (cache.v.defined()) total += cache.v.nbytes();
  }
  return total;
}

std::vector<WindowCache> row_of(const std::vector<WindowCache>& caches, int64_t row) {
  std::vector<WindowCache> one(caches.size());
  for (size_t i = 0; i < caches.size(); ++i) {
    if (caches[i].k.defined()) one[i].k = caches[i].k.narrow(0, row, 1);
    if (caches[i].v.defined()) one[i].v = caches[i].v.narrow(0, row, 1);
  }
  return one;
}

// [B,L,...,N] to N slots, the new ones holding `fill`.
at::Tensor widen(const at::Tensor& x, int64_t slots, double fill) {
  return x.size(-1) == slots ? x : at::constant_pad_nd(x, {0, slots - x.size(-1)}, fill);
}

at::Tensor join_slots(const at::Tensor& a, const at::Tensor& b, double fill) {
  if (!a.defined() || !b.defined()) return {};
  const int64_t slots = std::max(a.size(-1), b.size(-1));
  return at::cat({widen(a, slots, fill), widen(b, slots, fill)}, 1);
}

void keep_last_rows(int64_t rows, Trace* trace) {
  for (RetrievalTrace& r : trace->retrievals) {
    for (at::Tensor* x : {&r.query, &r.selection.index, &r.selection.score, &r.weight, &r.lse}) {
      if (x->defined()) *x = x->narrow(1, x->size(1) - rows, rows);
    }
  }
}

}  // namespace

void append_trace(Trace more, Trace* trace) {
  if (trace->retrievals.empty()) {
    *trace = std::move(more);
    return;
  }
  CAIRN_CHECK(more.retrievals.size() == trace->retrievals.size(), "{} and {} retrievals", more.retrievals.size(), trace->retrievals.size());
  for (size_t i = 0; i < more.retrievals.size(); ++i) {
    RetrievalTrace &to = trace->retrievals[i], &from = more.retrievals[i];
    to.query = at::cat({to.query, from.query}, 1);
    to.selection.index = join_slots(to.selection.index, from.selection.index, -1);
    to.selection.score = join_slots(to.selection.score, from.selection.score, 0);
    to.weight = join_slots(to.weight, from.weight, 0);
    to.lse = join_slots(to.lse, from.lse, 0);  // chunks that came later are visible to no earlier row
  }
}

ReaderState::ReaderState(const ModelConfig& config, int64_t batch, int64_t first_position)
    : first(first_position), end(first_position), memory(config, batch, first_position / config.chunk), chunk(config.chunk) {
  CAIRN_CHECK(first_position >= 0 && first_position % config.chunk == 0, "a text starts at a multiple of {}, not at {}", config.chunk,
              first_position);
}

int64_t ReaderState::bytes() const {
  return memory.bytes() + cache_bytes(lower) + cache_bytes(upper) + (partial.defined() ? partial.nbytes() : 0) +
         (tail.defined() ? tail.nbytes() : 0);
}

std::unique_ptr<ReaderState> ReaderState::fork() const {
  auto other = std::make_unique<ReaderState>(*this);
  other->memory = memory.share();
  return other;
}

std::unique_ptr<ReaderState> ReaderState::row(int64_t row) const {
  auto one = std::make_unique<ReaderState>(*this);
  one->memory = memory.row(row);
  one->lower = row_of(lower, row);
  one->upper = row_of(upper, row);
  if (partial.defined()) one->partial = partial.narrow(0, row, 1);
  if (tail.defined()) one->tail = tail.narrow(0, row, 1);
  return one;
}

std::unique_ptr<ReaderState> ReaderState::expand(int64_t rows) const {
  auto all = std::make_unique<ReaderState>(*this);
  all->memory = memory.expand(rows);
  const auto widen_rows = [rows](at::Tensor& x) {
    if (!x.defined()) return;
    std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end());
    sizes[0] = rows;
    x = x.expand(sizes);
  };
  for (auto* caches : {&all->lower, &all->upper}) {
    for (WindowCache& cache : *caches) widen_rows(cache.k), widen_rows(cache.v);
  }
  widen_rows(all->partial);
  widen_rows(all->tail);
  return all;
}

Reader::Reader(std::shared_ptr<const Model> model, ReaderOptions options) : model_(std::move(model)), options_(options) {
  CAIRN_CHECK(options_.compute == at::kFloat || options_.compute == at::kBFloat16, "compute dtype");
}

namespace {

// Chunks of `tokens` tokens with the unused ones of the last page.
int64_t page_slots(const ModelConfig& config, int64_t tokens) {
  const int64_t chunks = tokens / config.chunk;
  return chunks == 0 ? 0 : chunks + std::clamp(chunks, ChunkMemory::kSmallestPage, ChunkMemory::kLargestPage);
}

}  // namespace

int64_t Reader::key_bytes(const ModelConfig& config, int64_t batch, int64_t tokens, at::ScalarType compute, EightBit eight_bit) {
  return ChunkMemory::key_bytes_for(config, batch, page_slots(config, tokens), compute == at::kFloat ? 4 : 2, eight_bit);
}

int64_t Reader::state_bytes(const ModelConfig& config, int64_t batch, int64_t tokens, at::ScalarType compute, EightBit eight_bit) {
  const int64_t element = compute == at::kFloat ? 4 : 2, slots = page_slots(config, tokens);
  const int64_t caches =
      (config.lower_layers + config.upper_windows()) * 2 * (config.window - 1) * config.kv_heads * config.head_dim * element;
  return ChunkMemory::bytes_for(config, batch, slots, element, eight_bit) +
         batch * (caches + (config.upper_reach() + config.chunk) * config.d_model * 4);
}

at::Device Reader::device() const { return model_->parameters()->flat().device(); }

int64_t Reader::segment_tokens() const {
  if (options_.segment > 0) return options_.segment;
  return device().is_cuda() ? 65536 : 4096;
}

ForwardOptions Reader::forward_options() const {
  ForwardOptions forward;
  forward.alpha = model_->config().alpha;
  forward.beta = model_->config().beta;
  forward.top_k = options_.top_k > 0 ? options_.top_k : model_->config().top_k;
  forward.use_memory = use_memory_;
  forward.compute = options_.compute;
  return forward;
}

std::unique_ptr<State> Reader::new_state(int64_t batch) const { return new_reader_state(batch); }

std::unique_ptr<ReaderState> Reader::new_reader_state(int64_t batch, int64_t first_position) const {
  auto state = std::make_unique<ReaderState>(model_->config(), batch, first_position);
  state->memory.place_keys(options_.keys);
  state->memory.keep_as(options_.eight_bit);
  state->holds_end = world() == nullptr || world()->rank() + 1 == world()->size();
  return state;
}

at::Tensor Reader::take_in(ReaderState& state, const at::Tensor& tokens) const {
  const int64_t chunk = model_->config().chunk, n = tokens.size(1);
  at::Tensor x = model_->lower(model_->embed(tokens), state.end, &state.lower, options_.compute);
  const at::Tensor pending = join(state.partial, x);
  const int64_t complete = pending.size(1) / chunk * chunk;
  if (complete > 0 && state.holds_end) state.memory.append(model_->encode_chunks(pending.narrow(1, 0, complete), options_.compute));
  state.partial = last_columns(pending, pending.size(1) - complete);
  const int64_t keep = model_->config().upper_reach();
  state.tail = last_columns(n >= keep ? x : join(state.tail, x), keep);
  state.end += n;
  return x;
}

void Reader::read_blocks(ReaderState& state, int64_t count, const std::function<at::Tensor(int64_t, int64_t)>& tokens_at,
                         const std::function<bool(int64_t)>& progress) const {
  const at::NoGradGuard no_gradient;
  const int64_t chunk = model_->config().chunk;
  const int64_t block = std::max<int64_t>(1, segment_tokens() / state.batch() / chunk) * chunk;
  state.upper_valid = false;
  if (world() != nullptr && state.end == state.first && count > 0) return read_share(state, count, block, tokens_at, progress);
  for (int64_t done = 0; done < count;) {
    // Blocks end at chunk ends, so that no midpoint state is moved but in the first and the last.
    const int64_t n = std::min(count - done, block - width(state.partial));
    take_in(state, tokens_at(done, n));
    done += n;
    if (progress && !progress(done)) return;
  }
}

void Reader::read_share(ReaderState& state, int64_t count, int64_t block, const std::function<at::Tensor(int64_t, int64_t)>& tokens_at,
                        const std::function<bool(int64_t)>& progress) const {
  World& all = *world();
  const ModelConfig& config = model_->config();
  const int64_t blocks = (count + block - 1) / block, each = (blocks + all.size() - 1) / all.size(), last = (blocks - 1) / each;
  const int64_t begin = std::min(all.rank() * each * block, count), stop = std::min(begin + each * block, count);
  state.memory = ChunkMemory(config, state.batch(), (state.first + begin) / config.chunk);
  state.memory.keep_as(options_.eight_bit);

  // Blocks are cut as one process would cut them. Those in front of the share only run up: far enough that what they hand on is, bit for
  // bit, what a reading from the start would have handed on.
  const int64_t run_up = ((config.lower_reach() + config.upper_reach() + block - 1) / block + 1) * block;
  bool stopped = false;
  for (int64_t at = begin == stop ? stop : std::max<int64_t>(0, begin - run_up); at < stop && !stopped;) {
    const int64_t n = std::min(block, stop - at);
    state.end = state.first + at;
    state.holds_end = at >= begin;
    take_in(state, tokens_at(at, n));
    at += n;
    if (progress && at > begin) stopped = !progress(std::min(count, (at - begin) * all.size()));
  }
  at::Tensor stops = at::full({1}, stopped ? 1 : 0, at::kLong);
  all.all_reduce_sum(stops);
  if (stops.item<int64_t>() > 0) return;  // nobody goes on with half a text

  // What lies behind the text, from the process that has read its end.
  state.end = state.first + count;
  state.holds_end = all.rank() + 1 == all.size();
  state.lower.resize(static_cast<size_t>(config.lower_layers));
  for (WindowCache& cache : state.lower) {
    share_tensor(&cache.k, device(), last, all);
    share_tensor(&cache.v, device(), last, all);
  }
  share_tensor(&state.partial, device(), last, all);
  share_tensor(&state.tail, device(), last, all);
}

MemoryShares Reader::shares(const ReaderState& state) const {
  const ModelConfig& config = model_->config();
  CAIRN_CHECK(world() == nullptr || state.end / config.chunk < (int64_t{1} << 31), "{} chunks in shares", state.end / config.chunk);
  return {world(), state.chunks(), config.chunk, config.memory_kv_heads, config.head_dim, options_.compute};
}

void Reader::agree(at::Tensor& logits) const {
  if (World* all = world()) all->broadcast(logits, 0);
}

void Reader::read(State& state, const at::Tensor& tokens) const {
  auto& own = static_cast<ReaderState&>(state);
  CAIRN_CHECK(tokens.dim() == 2 && tokens.size(0) == own.batch(), "tokens of {} rows, state of {}", tokens.size(0), own.batch());
  read_blocks(own, tokens.size(1), [&](int64_t begin, int64_t n) { return tokens.narrow(1, begin, n); }, {});
}

void Reader::read(ReaderState& state, int64_t count, const TokenFetch& fetch, const std::function<bool(int64_t)>& progress) const {
  const int64_t start = state.end;
  read_blocks(
      state, count, [&](int64_t begin, int64_t n) { return fetch_tokens(state.batch(), start + begin, n, fetch); }, progress);
}

at::Tensor Reader::fetch_tokens(int64_t batch, int64_t begin, int64_t count, const TokenFetch& fetch) const {
  // From pinned memory a GPU takes them without anyone waiting (a block is used again when its copy is done): segments queue up behind each
  // other, and the GPU does not pause while the host prepares the next one.
  const bool pinned = device().is_cuda();
  const at::Tensor ids = at::empty({batch, count}, at::TensorOptions(at::kInt).pinned_memory(pinned));
  for (int64_t row = 0; row < batch; ++row) fetch(row, begin, {ids.data_ptr<int32_t>() + row * count, static_cast<size_t>(count)});
  return ids.to(device(), at::kInt, /*non_blocking=*/pinned).to(at::kLong);
}

at::Tensor Reader::hidden_of(ReaderState& state, const at::Tensor& tokens, Trace* trace, const AskOptions& ask) const {
  const int64_t n = tokens.size(1);
  at::Tensor x;
  if (state.upper_valid && state.upper_with_memory == use_memory_) {
    x = take_in(state, tokens);
  } else {
    const at::Tensor before = state.tail;  // take_in() moves the tail on
    state.upper.clear();
    x = join(before, take_in(state, tokens));
  }
  PagedAccess access(state.memory, ask, shares(state));
  MemoryAccess* memory = use_memory_ ? &access : nullptr;
  Trace all;
  ForwardOptions forward = forward_options();
  forward.want_mass = ask.want_mass;
  const at::Tensor hidden = model_->upper(x, state.end - x.size(1), memory, &state.upper, forward, trace != nullptr ? &all : nullptr);
  state.upper_valid = true;
  state.upper_with_memory = use_memory_;
  if (trace != nullptr && !all.retrievals.empty()) {
    keep_last_rows(n, &all);
    append_trace(std::move(all), trace);
  }
  return hidden.narrow(1, hidden.size(1) - n, n);
}

at::Tensor Reader::advance(State& state, const at::Tensor& tokens, Trace* trace) const {
  return advance_last(state, tokens, tokens.size(1), trace);
}

at::Tensor Reader::advance_last(State& state, const at::Tensor& tokens, int64_t rows, Trace* trace, const AskOptions& ask) const {
  const at::NoGradGuard no_gradient;
  auto& own = static_cast<ReaderState&>(state);
  const int64_t count = tokens.size(1);
  CAIRN_CHECK(tokens.dim() == 2 && tokens.size(0) == own.batch() && rows >= 1 && rows <= count, "{} rows of {} tokens", rows, count);
  if (trace != nullptr) *trace = {};
  const int64_t block = std::max<int64_t>(1, segment_tokens() / own.batch());
  std::vector<at::Tensor> logits;
  for (int64_t done = 0; done < count; done += block) {
    const int64_t n = std::min(block, count - done);
    const at::Tensor hidden = hidden_of(own, tokens.narrow(1, done, n), trace, ask);
    const int64_t wanted = std::min(n, done + n - (count - rows));
    if (wanted > 0) logits.push_back(model_->logits(hidden.narrow(1, n - wanted, wanted)));
  }
  at::Tensor all = logits.size() == 1 ? logits[0] : at::cat(logits, 1);
  agree(all);
  return all;
}

at::Tensor Reader::lower_states(int64_t batch, int64_t start, int64_t stop, const TokenFetch& fetch,
                                std::vector<WindowCache>* caches) const {
  const int64_t block = std::max<int64_t>(model_->config().chunk, segment_tokens() / batch);
  std::vector<at::Tensor> parts;
  for (int64_t at = start; at < stop; at += block) {
    const int64_t n = std::min(block, stop - at);
    parts.push_back(model_->lower(model_->embed(fetch_tokens(batch, at, n, fetch)), at, caches, options_.compute));
  }
  return at::cat(parts, 1);
}

int64_t Reader::felt_chunks() const {
  const ModelConfig& config = model_->config();
  return (config.lower_reach() + config.chunk - 1) / config.chunk;
}

void Reader::reencode(ReaderState& state, int64_t first_chunk, int64_t end_chunk, const TokenFetch& fetch) const {
  const at::NoGradGuard no_gradient;
  const ModelConfig& config = model_->config();
  const int64_t chunk = config.chunk;
  CAIRN_CHECK(first_chunk >= state.memory.first_chunk() && end_chunk <= state.memory.end_chunk(), "chunks {} .. {}", first_chunk,
              end_chunk);
  const int64_t block = std::max<int64_t>(1, segment_tokens() / state.batch() / chunk);
  for (int64_t c = first_chunk; c < end_chunk; c += block) {
    const int64_t n = std::min(block, end_chunk - c), start = std::max(state.first, c * chunk - config.lower_reach());
    std::vector<WindowCache> caches;
    const at::Tensor x = lower_states(state.batch(), start, (c + n) * chunk, fetch, &caches);
    state.memory.overwrite(c, model_->encode_chunks(x.narrow(1, c * chunk - start, n * chunk), options_.compute));
  }
  state.upper_valid = false;
}

void Reader::rebuild_end(ReaderState& state, const TokenFetch& fetch) const {
  const at::NoGradGuard no_gradient;
  const ModelConfig& config = model_->config();
  const int64_t have = state.end - state.first, rest = have % config.chunk, tail = std::min(have, config.upper_reach());
  state.lower.clear();
  state.upper.clear();
  state.upper_valid = false;
  state.partial = state.tail = at::Tensor();
  if (have == 0) return;
  // One token at least: of none there would be no states to take nothing from.
  const int64_t kept = std::min(have, std::max({rest, tail, config.window - 1, int64_t{1}}));
  const int64_t start = std::max(state.first, state.end - kept - config.lower_reach());
  const at::Tensor x = lower_states(state.batch(), start, state.end, fetch, &state.lower);
  state.partial = last_columns(x, rest);
  state.tail = last_columns(x, tail);
}

Reader::Replaced Reader::rewrite(ReaderState& state, int64_t begin, int64_t end, const TokenFetch& fetch) const {
  const at::NoGradGuard no_gradient;
  const ModelConfig& config = model_->config();
  const int64_t chunk = config.chunk, far = config.lower_reach();
  CAIRN_CHECK(begin >= state.first && begin < end && end <= state.end, "rewrite {} .. {} of {} .. {}", begin, end, state.first, state.end);
  Replaced replaced;
  const int64_t touched_end = std::min(end + far, state.end);  // states from here on are as they were
  // Complete chunks that hold a touched token.
  const int64_t first_chunk = begin / chunk, end_chunk = std::min((touched_end + chunk - 1) / chunk, state.end / chunk);
  // What the state keeps of the end of the text: midpoint states of the tail and of the incomplete chunk, keys and values of the last W-1
  // tokens.
  const int64_t kept = std::min({state.end - width(state.tail), state.end - width(state.partial), state.end - (config.window - 1)});
  replaced.end_touched = touched_end > kept;
  const int64_t wanted = std::min(first_chunk * chunk, replaced.end_touched ? std::max(kept, state.first) : state.end);
  const int64_t stop = replaced.end_touched ? state.end : end_chunk * chunk;
  const int64_t start = std::max(state.first, wanted - far);

  replaced.tokens = stop - start;
  std::vector<WindowCache> caches;
  const at::Tensor x = lower_states(state.batch(), start, stop, fetch, &caches);
  if (end_chunk > first_chunk) {
    const int64_t from = std::max(first_chunk, state.memory.first_chunk()), to = std::min(end_chunk, state.memory.end_chunk());
    if (from < to) {  // those of them that are here
      const ChunkEncoding fresh =
          model_->encode_chunks(x.narrow(1, first_chunk * chunk - start, (end_chunk - first_chunk) * chunk), options_.compute);
      const int64_t skip = from - first_chunk, n = to - from;
      replaced.first_chunk = from;
      replaced.chunks = state.memory.copy(from, n);
      state.memory.overwrite(from, {fresh.landmarks.narrow(1, skip, n), fresh.k.narrow(1, skip * chunk, n * chunk),
                                    fresh.v.narrow(1, skip * chunk, n * chunk)});
    }
  }
  if (replaced.end_touched) {
    replaced.lower = std::exchange(state.lower, caches);
    replaced.tail = std::exchange(state.tail, last_columns(x, width(state.tail)));
    replaced.partial = std::exchange(state.partial, last_columns(x, width(state.partial)));
  }
  state.upper_valid = false;
  return replaced;
}

void Reader::restore(ReaderState& state, const Replaced& replaced) const {
  if (replaced.chunks.k.defined()) state.memory.overwrite(replaced.first_chunk, replaced.chunks);
  if (replaced.end_touched) {
    state.lower = replaced.lower;
    state.tail = replaced.tail;
    state.partial = replaced.partial;
  }
  state.upper_valid = false;
}

}  // namespace cairn
