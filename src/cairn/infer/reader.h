// The memory model behind the LanguageModel interface: reading, asking, decoding (docs/algorithm.md section 4).
//
//   read     lower half and chunk encoder only, segment by segment: nothing grows but the memory
//   advance  exact logits of the new tokens. The upper half runs over the tail (the midpoint states of the last upper_reach() tokens) and
//   the new tokens; after
//            that its own window caches are valid and further tokens cost one step each
//   rewrite  tokens inside what was read have changed: only the chunks that can feel it are encoded again
//
// Token t sees chunk i iff t >= (i+1) S. Chunks completed by the new tokens enter the memory before the upper half runs; absolute positions
// keep them from the rows in front of their end.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "cairn/dist/world.h"
#include "cairn/infer/shares.h"
#include "cairn/memory/chunk_memory.h"
#include "cairn/model/language_model.h"
#include "cairn/model/model.h"

namespace cairn {

// Everything that reading holds. Tensors are replaced, never written in place (the memory's pages excepted), so copies of the small ones
// are cheap.
struct ReaderState final : State {
  ReaderState(const ModelConfig& config, int64_t batch, int64_t first_position);
  int64_t position() const override { return end; }
  int64_t bytes() const override;
  int64_t batch() const { return memory.batch(); }
  int64_t chunks() const { return end / chunk - first / chunk; }  // complete ones, of all shares

  // A state that goes on from here on its own while this one stays as it is; the memory read so far is shared. Do not rewrite() either
  // while both live.
  std::unique_ptr<ReaderState> fork() const;
  // Row `row` alone, in the same way.
  std::unique_ptr<ReaderState> row(int64_t row) const;
  // A state of one row as `rows` rows that share the memory read so far: many questions about one text go in one batch.
  std::unique_ptr<ReaderState> expand(int64_t rows) const;

  int64_t first = 0;               // absolute position of the first token, a multiple of S
  int64_t end = 0;                 // absolute position of the next token
  std::vector<WindowCache> lower;  // last W-1 rotated keys and values of each lower layer
  at::Tensor partial;              // [B,p,d] fp32 midpoint states of the incomplete chunk, p < S
  at::Tensor tail;                 // [B,<= upper_reach,d] fp32 midpoint states of the last tokens
  std::vector<WindowCache> upper;  // of the upper half; meaningful when upper_valid
  bool upper_valid = false, upper_with_memory = true;
  ChunkMemory memory;     // of all chunks, or of this process's share (ReaderOptions::world)
  bool holds_end = true;  // chunks completed from here on go to this process
  int64_t chunk = 64;     // S
};

struct ReaderOptions {
  at::ScalarType compute = at::kFloat;  // fp32 or bf16: matrix products, attention, and what the memory holds
  int64_t segment = 0;                  // tokens of a segment, all rows together; 0: chosen for the device
  int64_t top_k = 0;                    // 0: the configuration's
  KeysOn keys = KeysOn::kDevice;        // where the memories of new states keep keys and values
  // Several processes that share the memory of every text: each reads and holds a part of the chunks. All of them make the same calls with
  // the same texts, and get the same logits. Null or a world of one: all chunks are here. See docs/several-gpus.md.
  std::shared_ptr<World> world = nullptr;
  EightBit eight_bit = {};  // what the memories of new states keep as 8-bit rows
};

// How a question is asked, for diagnostics. Both hold for every row that the call runs through the upper half, so they are for states that
// have only read (or were asked in the same way before).
struct AskOptions {
  std::vector<std::vector<int64_t>> excluded;  // a row's chunks (absolute numbers) that no retrieval may choose; empty: none
  // Fill RetrievalTrace::lse, [B,L,H,chunks of the memory]. Copies all keys and values: for short texts.
  bool want_mass = false;
};

// Rows of `more` behind those of `trace`.
void append_trace(Trace more, Trace* trace);

// Gives tokens begin .. begin + out.size() (absolute positions) of row `row`.
using TokenFetch = std::function<void(int64_t row, int64_t begin, std::span<int32_t> out)>;

class Reader final : public LanguageModel {
 public:
  explicit Reader(std::shared_ptr<const Model> model, ReaderOptions options = {});

  std::unique_ptr<State> new_state(int64_t batch) const override;
  // A text that starts at `first_position` (a multiple of S).
  std::unique_ptr<ReaderState> new_reader_state(int64_t batch, int64_t first_position = 0) const;

  void read(State& state, const at::Tensor& tokens) const override;
  // Reads `count` tokens a row from `fetch`; `progress` (may be empty) hears the tokens a row done so far, after each segment, and stops
  // the reading by returning false.
  void read(ReaderState& state, int64_t count, const TokenFetch& fetch, const std::function<bool(int64_t)>& progress = {}) const;

  at::Tensor advance(State& state, const at::Tensor& tokens, Trace* trace = nullptr) const override;
  // As advance(), logits of the last `rows` new tokens only, [B,rows,vocab].
  at::Tensor advance_last(State& state, const at::Tensor& tokens, int64_t rows, Trace* trace = nullptr, const AskOptions& ask = {}) const;

  // What rewrite() replaced.
  struct Replaced {
    int64_t first_chunk = 0;
    ChunkEncoding chunks;      // undefined tensors: no complete chunk was touched
    int64_t tokens = 0;        // tokens a row that went through the lower half for it
    bool end_touched = false;  // the fields below are set
    std::vector<WindowCache> lower;
    at::Tensor partial, tail;
  };
  // Tokens begin .. end (absolute, begin < end <= position) changed; `fetch` gives the text as it is now. Afterwards the state equals that
  // of a fresh read up to rounding; the upper caches are invalid.
  Replaced rewrite(ReaderState& state, int64_t begin, int64_t end, const TokenFetch& fetch) const;
  // Undoes rewrites in the reverse order, bit by bit.
  void restore(ReaderState& state, const Replaced& replaced) const;

  // Encodes complete chunks first .. end (absolute numbers) again from the text as `fetch` gives it now: what an insertion, a deletion or a
  // join leaves to do in the memory. The upper caches are invalid afterwards.
  void reencode(ReaderState& state, int64_t first_chunk, int64_t end_chunk, const TokenFetch& fetch) const;
  // Makes what the state keeps of the end of the text (lower caches, incomplete chunk, tail) from the text anew.
  void rebuild_end(ReaderState& state, const TokenFetch& fetch) const;
  // Chunks behind a change whose encoding feels it: ceil(R_low / S).
  int64_t felt_chunks() const;

  int64_t vocab() const override { return model_->config().vocab; }
  void use_memory(bool on) override { use_memory_ = on; }
  bool uses_memory() const { return use_memory_; }
  const Model& model() const { return *model_; }
  const ReaderOptions& options() const { return options_; }
  at::Device device() const;
  // The processes that share memories; null if this one holds all.
  World* world() const { return options_.world != nullptr && options_.world->size() > 1 ? options_.world.get() : nullptr; }
  MemoryShares shares(const ReaderState& state) const;
  // The same numbers in all of them, those of process 0, whatever rounding does; in place.
  void agree(at::Tensor& logits) const;

  // Tokens before a token that its logits depend on when the memory is off.
  static int64_t floor_reach(const ModelConfig& config) { return config.lower_reach() + config.upper_windows() * (config.window - 1); }
  // Bytes of a state that has read `tokens` tokens a row, page slack included; and what of it are keys and values of the memory.
  static int64_t state_bytes(const ModelConfig& config, int64_t batch, int64_t tokens, at::ScalarType compute, EightBit eight_bit = {});
  static int64_t key_bytes(const ModelConfig& config, int64_t batch, int64_t tokens, at::ScalarType compute, EightBit eight_bit = {});
  // Tokens of a segment, all rows together.
  int64_t segment_tokens() const;
  // What every forward pass of this reader is made with.
  ForwardOptions forward_options() const;

 private:
  // Lower half over `tokens`; takes what it completes into the memory, keeps the tail. Returns the midpoint states [B,n,d].
  at::Tensor take_in(ReaderState& state, const at::Tensor& tokens) const;
  // Midpoint states [B,stop-start,d] of tokens start .. stop, which see nothing before `start`; *caches: lower caches behind them.
  at::Tensor lower_states(int64_t batch, int64_t start, int64_t stop, const TokenFetch& fetch, std::vector<WindowCache>* caches) const;
  // One block of advance().
  at::Tensor hidden_of(ReaderState& state, const at::Tensor& tokens, Trace* trace, const AskOptions& ask) const;
  void read_blocks(ReaderState& state, int64_t count, const std::function<at::Tensor(int64_t, int64_t)>& tokens_at,
                   const std::function<bool(int64_t)>& progress) const;
  // The first reading of a state by several processes, each its part.
  void read_share(ReaderState& state, int64_t count, int64_t block, const std::function<at::Tensor(int64_t, int64_t)>& tokens_at,
                  const std::function<bool(int64_t)>& progress) const;
  at::Tensor fetch_tokens(int64_t batch, int64_t begin, int64_t count, const TokenFetch& fetch) const;

  std::shared_ptr<const Model> model_;
  ReaderOptions options_;
  bool use_memory_ = true;
};

}  // namespace cairn
