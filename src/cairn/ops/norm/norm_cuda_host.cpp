// Checks, workspace and stream of the norm kernels.
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>

#include "cairn/ops/cuda/kernels.h"
#include "cairn/ops/cuda/launch.h"
#include "cairn/ops/norm/fused.h"
#include "cairn/ops/norm/launch.h"
#include "cairn/ops/norm/norm.h"

namespace cairn {
namespace {

// The tensors that the pointers of `args` live in.
struct Prepared {
  NormArgs args;
  at::Tensor x, weight, cosine, sine;
  int64_t tokens = 0;
};

Prepared prepare(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& cosine, const at::Tensor& sine, at::ScalarType out) {
  Prepared p;
  p.x = x.stride(3) == 1 ? x : x.contiguous();
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
  p.args.y_bf16 = out == at::kBFloat16;
  p.tokens = x.size(0) * x.size(1);
  return p;
}

bool supports(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& cosine, at::ScalarType out) {
  const auto is_short = [](at::ScalarType type) { return type == at::kFloat || type == at::kBFloat16; };
  if (!runs_kernels(x) || !is_short(x.scalar_type()) || !is_short(out) || x.dim() != 4 || x.numel() == 0) return false;
  Prepared p = prepare(x.detach(), weight.detach(), {}, {}, out);
  float placeholder = 0;
  if (cosine.defined()) p.args.cosine = &placeholder;
  return norm_launchable(p.args);
}

at::Tensor forward(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& cosine, const at::Tensor& sine, at::ScalarType out) {
  const c10::cuda::CUDAGuard guard(x.device());
  Prepared p = prepare(x, weight, cosine, sine, out);
  at::Tensor y = at::empty(x.sizes(), x.options().dtype(out));
  p.args.y = y.mutable_data_ptr();
  check_launch(launch_norm_forward(p.args, p.tokens, multiprocessors(x), current_stream()));
  return y;
}

std::tuple<at::Tensor, at::Tensor> backward(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& cosine,
                                            const at::Tensor& sine) {
  const c10::cuda::CUDAGuard guard(x.device());
  Prepared p = prepare(x, weight, cosine, sine, grad.scalar_type());
  const at::Tensor g = aligned(grad.contiguous());
  at::Tensor dx = at::empty(x.sizes(), x.options());
  p.args.grad = g.const_data_ptr();
  p.args.y = dx.mutable_data_ptr();
  const int blocks = norm_backward_blocks(p.args, p.tokens, multiprocessors(x));
  at::Tensor partial = at::empty({blocks, x.size(3)}, x.options().dtype(at::kFloat));
  p.args.grad_weight = partial.mutable_data_ptr<float>();
  check_launch(launch_norm_backward(p.args, p.tokens, blocks, current_stream()));
  return {dx, partial.sum(0).to(weight.scalar_type())};
}

[[maybe_unused]] const bool registered = register_cuda_kernels([](CudaKernels* table) {
  table->norm_supports = supports;
  table->norm_forward = forward;
  table->norm_backward = backward;
});

}  // namespace
}  // namespace cairn
