// The project's own CUDA kernels as seen by operators: a table of functions on at::Tensor, filled in by the objects that hold them
// (*_cuda_host.cpp, linked into programs built with CAIRN_CUDA). No CUDA header here: the same objects of every room serve the program
// without a GPU, where there is no table.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <tuple>
#include <vector>

#include "cairn/ops/hsa/gradients.h"
#include "cairn/ops/hsa/hsa.h"
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

  // RMSNorm with an optional rotation (ops/norm/fused.h): x [B,L,H,D]; the gradient has the dtype that the forward put out.
  bool (*norm_supports)(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& cosine, at::ScalarType out) = nullptr;
  at::Tensor (*norm_forward)(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& cosine, const at::Tensor& sine,
                             at::ScalarType out) = nullptr;
  std::tuple<at::Tensor, at::Tensor> (*norm_backward)(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight,
                                                      const at::Tensor& cosine, const at::Tensor& sine) = nullptr;

  // SwiGLU's middle of one joint projection [rows, 2 w], gate first (ops/swiglu/swiglu.h): bf16 or fp32, contiguous.
  bool (*swiglu_supports)(const at::Tensor& both) = nullptr;
  at::Tensor (*swiglu_forward)(const at::Tensor& both) = nullptr;
  at::Tensor (*swiglu_backward)(const at::Tensor& grad, const at::Tensor& both) = nullptr;

  // Cross-entropy of rows of fp32 logits [n, vocab] (ops/cross_entropy/cross_entropy.h): fills lse, loss (fp32 [n]) and correct (bool [n]);
  // the gradient g (softmax - one-hot) in `type`. Targets outside the vocabulary end the program's work on the GPU with an assertion.
  bool (*cross_entropy_supports)(const at::Tensor& logits) = nullptr;
  void (*cross_entropy_statistics)(const at::Tensor& logits, const at::Tensor& target, at::Tensor& lse, at::Tensor& loss,
                                   at::Tensor& correct) = nullptr;
  at::Tensor (*cross_entropy_gradient)(const at::Tensor& logits, const at::Tensor& lse, const at::Tensor& target, const at::Tensor& g,
                                       at::ScalarType type) = nullptr;

  // Landmark selection (ops/select/select.h); 1 <= n <= number of landmarks in all pages.
  bool (*select_supports)(const at::Tensor& rq, const std::vector<at::Tensor>& pages, int64_t n, const Visibility& visibility) = nullptr;
  Selection (*select_chunks)(const at::Tensor& rq, const std::vector<at::Tensor>& pages, int64_t n, const Visibility& visibility) = nullptr;
};

// Null where this program was built without CUDA, and while they are switched off.
const CudaKernels* cuda_kernels();

// Off: every operator takes its plain path (for comparisons in tests and benchmarks). On at the start. Not for use while others compute.
void enable_cuda_kernels(bool on);

// For the objects that hold kernels: calls `fill` with the table, once, before main(). Always true.
bool register_cuda_kernels(void (*fill)(CudaKernels* table));

}  // namespace cairn
