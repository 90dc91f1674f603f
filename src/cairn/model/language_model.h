// The one interface that train, infer and eval know. Our memory model, a K/V cache and Mamba's states are each a State behind it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "cairn/ops/distillation/distillation.h"
#include "cairn/ops/select/select.h"

namespace cairn {

// One retrieval of one forward pass.
struct RetrievalTrace {
  at::Tensor query;     // [B,L,Q,Dr], normed
  at::Tensor score;     // [B,L,Q,C] fp32 clean scores (training lengths), differentiable; undefined while reading
  Selection selection;  // index [B,L,Q,N] (absolute chunk numbers), score of the selected
  at::Tensor weight;    // [B,L,Q|H,N] fp32 chunk weights, detached
  at::Tensor lse;       // [B,L,H,C] fp32 log mass of every chunk, detached; only when ForwardOptions::want_mass
  // Where lse's chunks stand. Nearest first (only of visible chunks, and only from training passes): the exact-mass warm-up with all
  // chunks, whose own masses these are.
  MassOrder lse_order = MassOrder::kByChunk;
};

// What losses and diagnostics need; a value that forward returns, never a global.
struct Trace {
  at::Tensor landmarks;  // [B,C,Q,Dr], normed
  std::vector<RetrievalTrace> retrievals;
};

struct ForwardOptions {
  double alpha = 0;                     // share of the exact mass in the chunk weights
  double beta = 0;                      // share of the memory output that joins the residual stream
  int64_t top_k = 8;                    // N; >= C: all chunks
  uint64_t noise_key = 0;               // Gumbel noise on the choice; 0: none
  int64_t noise_row = 0;                // number of row 0 among all sequences that the noise is drawn for
  bool want_mass = false;               // fill RetrievalTrace::lse (distillation)
  bool use_memory = true;               // false: the window-only floor (every memory output is 0)
  at::ScalarType compute = at::kFloat;  // dtype of matrix products and attention; residual stream and norms stay fp32
};

struct ForwardResult {
  at::Tensor hidden;  // [B,L,d] after the final norm, in the compute dtype
  Trace trace;
};

class State {
 public:
  virtual ~State() = default;
  virtual int64_t position() const = 0;  // tokens read so far
  virtual int64_t bytes() const = 0;     // memory held
};

class LanguageModel {
 public:
  virtual ~LanguageModel() = default;
  virtual std::unique_ptr<State> new_state(int64_t batch) const = 0;
  // Takes tokens [B,n] in without giving logits; for our model this runs the lower half only.
  virtual void read(State& state, const at::Tensor& tokens) const = 0;
  // Takes tokens [B,n] in and returns logits fp32 [B,n,vocab]: exactly those of a forward pass over the whole text.
  virtual at::Tensor advance(State& state, const at::Tensor& tokens, Trace* trace = nullptr) const = 0;
  virtual int64_t vocab() const = 0;
  virtual void use_memory(bool on) = 0;  // false: the window-only floor
};

}  // namespace cairn
