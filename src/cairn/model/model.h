// The network of docs/algorithm.md: blocks that training, reading and decoding share. Training calls forward(); infer/ calls the halves.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "cairn/model/config.h"
#include "cairn/model/language_model.h"
#include "cairn/model/parameters.h"

namespace cairn {

// Keys (rotated) and values of the tokens just before a segment: at most W-1, [B,h,Hkv,D]; undefined at the start of a text.
struct WindowCache {
  at::Tensor k, v;
};

// What the midpoint makes of complete chunks.
struct ChunkEncoding {
  at::Tensor landmarks;  // [B,C,Q,Dr], normed if landmark_norm
  at::Tensor k, v;       // [B,C*S,G,D]; k normed
};

// How a memory layer reaches the memory. Training holds it in three tensors; infer/ has pages. Chunk numbers are absolute.
class MemoryAccess {
 public:
  virtual ~MemoryAccess() = default;
  // rq [B,L,Q,Dr], rows at positions first_position ..; fills `trace` (query, selection; score where it has it).
  virtual Selection select(const at::Tensor& rq, int64_t first_position, RetrievalTrace* trace) = 0;
  // Clean scores of the selection, [B,L,Q,N] fp32: differentiable when training.
  virtual at::Tensor selected_scores(const at::Tensor& rq, const Selection& selection, RetrievalTrace* trace) = 0;
  // Keys and values that hold the selected chunks, and the selection renumbered into them.
  virtual void gather(const Selection& selection, at::Tensor* k, at::Tensor* v, at::Tensor* index) = 0;
};

class Model {
 public:
  Model(ModelConfig config, std::shared_ptr<Parameters> parameters);

  // tokens int64 [B,L] from position 0. Differentiable.
  ForwardResult forward(const at::Tensor& tokens, const ForwardOptions& options) const;

  // The halves. first_position: absolute position of column 0. caches: one a window attention, read and replaced; null: text starts here and nothing is kept.
  at::Tensor embed(const at::Tensor& tokens) const;                                                                // fp32 [B,L,d]
  at::Tensor lower(at::Tensor x, int64_t first_position, std::vector<WindowCache>* caches, at::ScalarType compute) const;
  ChunkEncoding encode_chunks(const at::Tensor& x, at::ScalarType compute) const;                                   // x [B,C*S,d]
  // memory null: every memory output is 0. Returns hidden after the final norm, [B,L,d] in the compute dtype.
  at::Tensor upper(at::Tensor x, int64_t first_position, MemoryAccess* memory, std::vector<WindowCache>* caches, const ForwardOptions& options,
                   Trace* trace) const;
  at::Tensor logits(const at::Tensor& hidden) const;                                                               // fp32 [...,vocab]

  const ModelConfig& config() const { return config_; }
  const std::shared_ptr<Parameters>& parameters() const { return parameters_; }

 private:
  ModelConfig config_;
  std::vector<UpperLayer> upper_layers_;
  std::shared_ptr<Parameters> parameters_;
};

// A folder with model.safetensors, config.json and the tokenizer file. UserError for anything missing or inconsistent.
struct LoadedModel {
  ModelConfig config;
  std::shared_ptr<Parameters> parameters;
  std::string tokenizer_file;   // path inside the folder, or "bytes"
  std::string fingerprint;      // hash of configuration and weights, 16 hex digits
};
LoadedModel load_model(const fs::path& folder, at::Device device);

}  // namespace cairn
