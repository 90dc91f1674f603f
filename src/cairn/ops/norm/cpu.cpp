#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "cairn/core/error.h"
#include "cairn/ops/norm/fused.h"
#include "cairn/ops/norm/kernels.h"
#include "cairn/ops/norm/norm.h"
#include "cairn/ops/simd/isa.h"

namespace cairn {
namespace {

constexpr int64_t kGrain = 16384;  // numbers a thread takes at least
constexpr int64_t kMaxParts = 64;  // partial weight gradients: a fixed split, so that sums do not depend on the number of threads

// The tensors that the pointers of `args` live in.
struct Prepared {
  NormArgs args;
  at::Tensor x, weight, cosine, sine;
  int64_t tokens = 0;
};

Prepared prepare(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& cosine, const at::Tensor& sine) {
  Prepared p;
  p.x = x.stride(3) == 1 || x.size(3) <= 1 ? x : x.contiguous();
  p.weight = weight.to(at::kFloat).contiguous();
  p.args.x = p.x.const_data_ptr();
  p.args.weight = p.weight.const_data_ptr<float>();
  if (cosine.defined()) {
    p.cosine = cosine.to(at::kFloat).contiguous();
    p.sine = sine.to(at::kFloat).contiguous();
    p.args.cosine = p.cosine.const_data_ptr<float>();
    p.args.sine = p.sine.const_data_ptr<float>();
  }
  p.args.length = x.size(1);
  p.args.heads = x.size(2);
  p.args.width = x.size(3);
  p.args.batch_stride = p.x.stride(0);
  p.args.token_stride = p.x.stride(1);
  p.args.head_stride = p.x.stride(2);
  p.args.weight_stride = weight.size(0) == x.size(3) ? 0 : x.size(3);
  p.args.eps = static_cast<float>(kNormEps);
  p.args.x_bf16 = x.scalar_type() == at::kBFloat16;
  p.tokens = x.size(0) * x.size(1);
  return p;
}

}  // namespace

const NormKernels& norm_kernels() {
  switch (cpu_isa()) {
    case Isa::kAvx512:
      return norm_kernels_avx512;
    case Isa::kAvx2:
      return norm_kernels_avx2;
    default:
      return norm_kernels_generic;
  }
}

NormForward norm_forward_cpu(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& cosine, const at::Tensor& sine,
                             at::ScalarType out) {
  Prepared p = prepare(x, weight, cosine, sine);
  at::Tensor y = at::empty(x.sizes(), x.options().dtype(out));
  if (y.numel() == 0) return {y, {}};
  p.args.y = y.mutable_data_ptr();
  p.args.y_bf16 = out == at::kBFloat16;
  const NormKernels& kernels = norm_kernels();
  at::parallel_for(0, p.tokens, std::max<int64_t>(1, kGrain / (p.args.heads * p.args.width)),
                   [&](int64_t begin, int64_t end) { kernels.forward(p.args, begin, end); });
  return {y, {}};
}

std::tuple<at::Tensor, at::Tensor> norm_backward_cpu(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight,
                                                     const at::Tensor& cosine, const at::Tensor& sine) {
  Prepared p = prepare(x, weight, cosine, sine);
  const at::Tensor g = grad.contiguous();
  at::Tensor dx = at::empty(x.sizes(), x.options());
  if (dx.numel() == 0) return {dx, at::zeros(weight.sizes(), weight.options())};
  p.args.grad = g.const_data_ptr();
  p.args.y = dx.mutable_data_ptr();
  p.args.y_bf16 = g.scalar_type() == at::kBFloat16;
  const int64_t part =
      std::max<int64_t>((p.tokens + kMaxParts - 1) / kMaxParts, std::max<int64_t>(1, kGrain / (p.args.heads * p.args.width)));
  const int64_t parts = (p.tokens + part - 1) / part;
  at::Tensor partial = at::zeros({parts, weight.size(0)}, weight.options().dtype(at::kFloat));
  float* const sums = partial.mutable_data_ptr<float>();
  const NormKernels& kernels = norm_kernels();
  at::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      NormArgs args = p.args;
      args.grad_weight = sums + i * weight.size(0);
      kernels.backward(args, i * part, std::min(p.tokens, (i + 1) * part));
    }
  });
  return {dx, partial.sum(0).to(weight.scalar_type())};
}

}  // namespace cairn
