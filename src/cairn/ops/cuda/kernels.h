// The project's own CUDA kernels as seen by operators: a table of functions on at::Tensor, filled in by the objects that hold them
// (*_cuda_host.cpp, linked into programs built with CAIRN_CUDA). No CUDA header here: the same objects of every room serve the program
// without a GPU, where there is no table.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <tuple>
#include <vector>

#include "cairn/ops/cuda/recorded.h"
#include "cairn/ops/gather/gather.h"
#include "cairn/ops/hsa/gradients.h"
#include "cairn/ops/hsa/hsa.h"
#include "cairn/ops/route/route.h"
#include "cairn/ops/select/select.h"

namespace cairn {

// Contracts (equations, shapes, dtypes) are those of the operators' headers. X_supports says whether X takes these operands; only then may
// X be called. All tensors lie on one GPU and work is queued on its current stream. An entry may be null: not built in.
struct CudaKernels {
  // Memory attention (ops/hsa/hsa.h).
  bool (*hsa_supports)(const at::Tensor& q, const at::Tensor& k, const at::Tensor& index, const at::Tensor& weight, int64_t chunk,
                       bool off_by_one, bool want_lse) = nullptr;
  HsaOutput (*hsa_forward)(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& index, const at::Tensor& weight,
                           int64_t chunk, bool off_by_one, bool want_lse) = nullptr;
  // grad_lse: undefined unless log-sum-exps were asked for.
  HsaGradients (*hsa_backward)(const at::Tensor& grad_o, const at::Tensor& grad_lse, const at::Tensor& q, const at::Tensor& k,
                               const at::Tensor& v, const at::Tensor& index, const at::Tensor& weight, int64_t chunk,
                               bool off_by_one) = nullptr;

  // Landmark selection (ops/select/select.h); 1 <= n <= number of landmarks in all pages.
  bool (*select_supports)(const at::Tensor& rq, const std::vector<at::Tensor>& pages, int64_t n, const Visibility& visibility) = nullptr;
  Selection (*select_chunks)(const at::Tensor& rq, const std::vector<at::Tensor>& pages, int64_t n, const Visibility& visibility) = nullptr;

  // The choice from given fp32 scores [B,L,Q,C] (select_from_scores), 1 <= n < C.
  bool (*select_given_supports)(const at::Tensor& score, int64_t n) = nullptr;
  Selection (*select_given)(const at::Tensor& score, int64_t n, const Visibility& visibility, uint64_t noise_key,
                            int64_t first_row) = nullptr;

  // RMSNorm of x [B,L,H,D] with one weight [D], rotated where tables of angles [L, D/2] are given (ops/norm/fused.h); the backward makes
  // the statistics again; `into`: where the gradient of x is to be written (like x), or undefined.
  bool (*norm_supports)(const at::Tensor& x, const at::Tensor& weight, at::ScalarType out) = nullptr;
  at::Tensor (*norm_forward)(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& cosine, const at::Tensor& sine,
                             at::ScalarType out) = nullptr;
  std::tuple<at::Tensor, at::Tensor> (*norm_backward)(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight,
                                                      const at::Tensor& cosine, const at::Tensor& sine, const at::Tensor& into) = nullptr;

  // A residual sum and its norm (ops/norm/norm.h: add_rms_norm), both [..., d]; y in bf16. Backward: gradients of x, delta and weight,
  // grad_sum may be undefined; only for fp32 sums.
  bool (*add_norm_supports)(const at::Tensor& x, const at::Tensor& delta, const at::Tensor& weight, at::ScalarType out) = nullptr;
  std::tuple<at::Tensor, at::Tensor> (*add_norm_forward)(const at::Tensor& x, const at::Tensor& delta, const at::Tensor& weight) = nullptr;
  std::tuple<at::Tensor, at::Tensor, at::Tensor> (*add_norm_backward)(const at::Tensor& grad_sum, const at::Tensor& grad,
                                                                      const at::Tensor& sum, const at::Tensor& weight) = nullptr;

  // SwiGLU (ops/swiglu/swiglu.h) on [rows, width] views with unit stride inside rows; y and grad contiguous, results written in place.
  bool (*swiglu_supports)(const at::Tensor& gate, const at::Tensor& up) = nullptr;
  void (*swiglu_forward)(const at::Tensor& gate, const at::Tensor& up, const at::Tensor& y) = nullptr;
  void (*swiglu_backward)(const at::Tensor& grad, const at::Tensor& gate, const at::Tensor& up, const at::Tensor& grad_gate,
                          const at::Tensor& grad_up) = nullptr;

  // Rows of fp32 logits [rows, vocab] (ops/cross_entropy): fills lse, loss and correct [rows]; scale (softmax - onehot) in dtype `out`,
  // which overwrites fp32 logits. A target outside the vocabulary makes NaN.
  bool (*cross_entropy_supports)(const at::Tensor& logits) = nullptr;
  void (*cross_entropy_statistics)(const at::Tensor& logits, const at::Tensor& target, const at::Tensor& lse, const at::Tensor& loss,
                                   const at::Tensor& correct) = nullptr;
  at::Tensor (*cross_entropy_gradient)(const at::Tensor& logits, const at::Tensor& target, const at::Tensor& lse, const at::Tensor& scale,
                                       at::ScalarType out) = nullptr;

  // Log-sum-exps of the route loss (ops/route/route.h). Backward: gradient of the products from that of `out`, the forward's result.
  bool (*route_supports)(const at::Tensor& product) = nullptr;
  at::Tensor (*route_forward)(const at::Tensor& product, double scale, const RouteLayout& layout, const at::Tensor& states_key,
                              const at::Tensor& key, const at::Tensor& used) = nullptr;
  at::Tensor (*route_backward)(const at::Tensor& grad, const at::Tensor& product, double scale, const RouteLayout& layout,
                               const at::Tensor& states_key, const at::Tensor& key, const at::Tensor& used,
                               const at::Tensor& out) = nullptr;

  // Landmark distillation (ops/distillation/distillation.h) of fp32 operands: rows, and (want_slope) their gradient by score, defined only
  // where chunks are visible. Backward: the gradient of score from that of the rows [B,L], any strides, and forward's slope.
  bool (*distillation_supports)(const at::Tensor& lse, const at::Tensor& score) = nullptr;
  std::tuple<at::Tensor, at::Tensor> (*distillation_forward)(const at::Tensor& lse, const at::Tensor& score, int64_t chunk,
                                                             bool nearest_first, bool want_slope) = nullptr;
  at::Tensor (*distillation_backward)(const at::Tensor& grad, const at::Tensor& slope, int64_t chunk) = nullptr;

  // Chunks of few selected slots (ops/gather/gather.h).
  bool (*gather_supports)(const ChunkPages& pages, const at::Tensor& index) = nullptr;
  GatheredChunks (*gather_chunks)(const ChunkPages& pages, const at::Tensor& index) = nullptr;

  // What `work` queues, recorded instead of run (ops/cuda/recorded.h).
  std::unique_ptr<RecordedWork> (*record)(const std::function<void()>& work) = nullptr;
};

// Null where this program was built without CUDA, and while they are switched off.
const CudaKernels* cuda_kernels();

// Off: every operator takes its plain path (for comparisons in tests and benchmarks). On at the start. Not for use while others compute.
void enable_cuda_kernels(bool on);

// For the objects that hold kernels: calls `fill` with the table, once, before main(). Always true.
bool register_cuda_kernels(void (*fill)(CudaKernels* table));

}  // namespace cairn
