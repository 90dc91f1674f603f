// What torch.ops.cairn.* refuses, before any kernel sees it. Each message names operator, argument, what came and what is expected.
// Shapes and values raise ValueError in Python, dtypes TypeError.
//
// Sizes are SymInt: the same checks serve real tensors and those of torch.compile, whose sizes may be symbols.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/SymInt.h>
#include <c10/util/Exception.h>

#include <cstdint>
#include <string>

namespace cairn::pytorch {

// fn(); an error inside it (memory that is not there, above all) also says which operator had which operands.
template <typename Arguments, typename Fn>
auto named(const Arguments& arguments, const Fn& fn) {
  try {
    return fn();
  } catch (c10::Error& error) {
    error.add_context(arguments.describe());
    throw;
  }
}

// The operands of memory attention (ops/hsa/hsa.h).
struct HsaArguments {
  const char* op;  // "cairn::hsa" or "cairn::hsa_backward", for messages
  const at::Tensor &q, &k, &v, &index, &weight;
  int64_t chunk;

  void check() const;
  void check_grads(const at::Tensor& grad_o, const at::Tensor& grad_lse) const;  // grad_lse may be undefined
  // Reads numbers: a GPU is waited for. Without `whole`, indices on a CPU are checked for their range only, those on a GPU not at all.
  void check_index(bool whole) const;

  c10::SymInt slots() const { return index.sym_size(3); }
  std::string describe() const;
  bool nothing_to_do() const;  // no row, no slot or no chunk: o and all gradients are 0
};

// Those of landmark selection (ops/select/select.h).
struct SelectArguments {
  const char* op;
  const at::Tensor &rq, &landmarks;

  void check() const;
  void check_numbers(int64_t top_k, int64_t chunk, const c10::SymInt& first_position, const c10::SymInt& first_chunk,
                     const c10::SymInt& exclude_window) const;
  std::string describe() const;
  void check_saved(const at::Tensor& grad_score, const at::Tensor& index) const;  // of the backward
};

}  // namespace cairn::pytorch
