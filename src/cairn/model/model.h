// The network of docs/algorithm.md: blocks that training, reading and decoding share. Training calls forward(); infer/ calls the halves.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <utility>
#include <vector>

#include "cairn/model/config.h"
#include "cairn/model/language_model.h"
#include "cairn/model/parameters.h"
#include "cairn/ops/gather/gather.h"
#include "cairn/ops/rotary/rotary.h"

namespace cairn {

// Keys (rotated) and values of the tokens just before a segment: at most W-1, [B,h,Hkv,D]; undefined at the start of a text.
struct WindowCache {
  at::Tensor k, v;
  // Defined: k and v are rings of W columns that change in place, one token a step (ops/window/step.h), which recorded work needs.
  at::Tensor position;
};

// What the midpoint makes of complete chunks.
struct ChunkEncoding {
  at::Tensor landmarks;  // [B,C,Q,Dr], normed if landmark_norm
  at::Tensor k, v;       // [B,C*S,G,D]; k normed
};

// What one retrieval found.
struct Retrieved {
  Selection selection;  // numbers are absolute chunk numbers
  at::Tensor score;     // clean scores of the selected, fp32 [B,L,Q,N], 0 where unused; differentiable when training
};

// How a memory layer reaches the memory. Training holds it in three tensors (TrainingMemory below); infer/ has pages. Chunk numbers are
// absolute.
class MemoryAccess {
 public:
  virtual ~MemoryAccess() = default;
  // rq [B,L,Q,Dr] normed queries; `visibility` carries the position of row 0. Fills trace->score where all scores exist (training).
  virtual Retrieved retrieve(const at::Tensor& rq, int64_t top_k, const Visibility& visibility, RetrievalTrace* trace) = 0;
  // Keys and values [B,M,G,D] that hold the selected chunks, and the selection renumbered into them (-1 stays -1).
  virtual void gather(const at::Tensor& index, at::Tensor* k, at::Tensor* v, at::Tensor* local_index) = 0;
  // The pages themselves, for operators that read chunks where they lie; null: there are none.
  virtual const ChunkPages* pages() { return nullptr; }
};

class WeightCache;

// Where a segment stands: the absolute position of its column 0, and the rotary table of its columns if it is made already (work that is
// recorded and replayed at later positions of the same chunk makes it on the device; what is visible is decided by `first`).
struct SegmentStart {
  SegmentStart(int64_t first_position) : first(first_position) {}  // NOLINT: a position is a start
  SegmentStart(int64_t first_position, RotaryTable made) : first(first_position), table(std::move(made)) {}
  int64_t first = 0;
  RotaryTable table;
};

class Model {
 public:
  Model(ModelConfig config, std::shared_ptr<Parameters> parameters);

  // tokens int64 [B,L] from position 0. Differentiable.
  ForwardResult forward(const at::Tensor& tokens, const ForwardOptions& options) const;

  // The halves. caches: read and replaced, sized by the callee (one a window attention; with
  // retrieval_stride = chunk one more a retrieval, whose k holds the query of the last chunk's end); null: text starts here and nothing is
  // kept.
  at::Tensor embed(const at::Tensor& tokens) const;  // fp32 [B,L,d]
  at::Tensor lower(at::Tensor embedded, const SegmentStart& start, std::vector<WindowCache>* caches, at::ScalarType compute) const;
  ChunkEncoding encode_chunks(const at::Tensor& x, at::ScalarType compute) const;  // x [B,C*S,d]
  // memory null: every memory output is 0. Returns hidden after the final norm, [B,L,d] in the compute dtype.
  at::Tensor upper(at::Tensor midpoint, const SegmentStart& start, MemoryAccess* memory, std::vector<WindowCache>* caches,
                   const ForwardOptions& options, Trace* trace) const;
  at::Tensor logits(const at::Tensor& hidden) const;  // fp32 [...,vocab]

  const ModelConfig& config() const { return config_; }
  const std::shared_ptr<Parameters>& parameters() const { return parameters_; }

 private:
  ModelConfig config_;
  std::vector<UpperLayer> upper_layers_;
  std::shared_ptr<Parameters> parameters_;
  std::shared_ptr<WeightCache> cache_;  // casts and joins of the weights, kept while no gradient is wanted
};

// A folder with model.safetensors, config.json and the tokenizer file. UserError for anything missing or inconsistent.
struct LoadedModel {
  ModelConfig config;
  std::shared_ptr<Parameters> parameters;
  std::string tokenizer_file;  // path inside the folder, or "bytes"
  std::string fingerprint;     // hash of configuration and weights, 16 hex digits
};
LoadedModel load_model(const fs::path& folder, at::Device device);

}  // namespace cairn
