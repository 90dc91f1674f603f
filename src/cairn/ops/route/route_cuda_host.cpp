// Log-sum-exps of the route loss on a GPU: checks and launches (rows.cu).
#include <ATen/ops/empty.h>

#include "cairn/ops/cuda/kernels.h"
#include "cairn/ops/cuda/launch.h"
#include "cairn/ops/route/launch.h"

namespace cairn {
namespace {

bool supports(const at::Tensor& product) {
  return runs_kernels(product) && (product.scalar_type() == at::kBFloat16 || product.scalar_type() == at::kFloat) &&
         product.is_contiguous() && product.size(1) % route_cuda::kColumnStep == 0 &&
         reinterpret_cast<uintptr_t>(product.const_data_ptr()) % 16 == 0;
}

route_cuda::Params params_of(const at::Tensor& product, double scale, const RouteLayout& layout, const at::Tensor& states_key,
                             const at::Tensor& key, const at::Tensor& used) {
  route_cuda::Params p = {};
  p.product = product.const_data_ptr();
  p.bf16 = product.scalar_type() == at::kBFloat16;
  p.scale = static_cast<float>(scale);
  p.rows = product.size(0), p.columns = product.size(1);
  p.length = layout.length, p.chunks = layout.chunks, p.chunk = layout.chunk, p.own_first = layout.own_first;
  if (states_key.defined()) p.states_key = states_key.const_data_ptr<bool>(), p.key = key.const_data_ptr<int64_t>();
  if (used.scalar_type() == at::kLong) {
    p.number = used.const_data_ptr<int64_t>();
  } else {
    p.used = used.const_data_ptr<bool>();
  }
  return p;
}

at::Tensor forward(const at::Tensor& product, double scale, const RouteLayout& layout, const at::Tensor& states_key_in,
                   const at::Tensor& key_in, const at::Tensor& used_in) {
  const c10::cuda::CUDAGuard guard(product.device());
  const at::Tensor states_key = states_key_in.defined() ? aligned(states_key_in.contiguous()) : states_key_in,
                   key = key_in.defined() ? key_in.contiguous() : key_in, used = used_in.contiguous();
  const at::Tensor out = at::empty({product.size(0)}, product.options().dtype(at::kFloat));
  if (out.numel() == 0) return out;
  route_cuda::Params p = params_of(product, scale, layout, states_key, key, used);
  p.out = out.mutable_data_ptr<float>();
  check_launch(launch_forward(p, current_stream()));
  return out;
}

at::Tensor backward(const at::Tensor& grad_in, const at::Tensor& product, double scale, const RouteLayout& layout,
                    const at::Tensor& states_key_in, const at::Tensor& key_in, const at::Tensor& used_in, const at::Tensor& out) {
  const c10::cuda::CUDAGuard guard(product.device());
  const at::Tensor states_key = states_key_in.defined() ? aligned(states_key_in.contiguous()) : states_key_in,
                   key = key_in.defined() ? key_in.contiguous() : key_in, used = used_in.contiguous(), grad = grad_in.contiguous();
  const at::Tensor dproduct = at::empty(product.sizes(), product.options());
  if (dproduct.numel() == 0) return dproduct;
  route_cuda::Params p = params_of(product, scale, layout, states_key, key, used);
  p.known = out.const_data_ptr<float>(), p.grad = grad.const_data_ptr<float>();
  p.grad_product = dproduct.mutable_data_ptr();
  check_launch(launch_backward(p, current_stream()));
  return dproduct;
}

const bool registered = register_cuda_kernels([](CudaKernels* table) {
  table->route_supports = supports;
  table->route_forward = forward;
  table->route_backward = backward;
});

}  // namespace
}  // namespace cairn
