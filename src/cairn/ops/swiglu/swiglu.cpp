#include "cairn/ops/swiglu/swiglu.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/silu_backward.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <tuple>
#include <utility>

#include "cairn/core/error.h"
#include "cairn/ops/cuda/kernels.h"
#include "cairn/ops/require.h"
#include "cairn/ops/simd/isa.h"
#include "cairn/ops/swiglu/kernels.h"

namespace cairn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kGrain = 8192;  // numbers a thread takes at least

// [rows, width] with one row stride, as halves of a joint projection have it; a copy only where that is impossible.
at::Tensor as_rows(const at::Tensor& t) {
  const at::Tensor rows = t.dim() == 0 ? t.reshape({1, 1}) : t.reshape({-1, t.size(-1)});
  return rows.stride(1) == 1 || rows.size(1) == 1 ? rows : rows.contiguous();
}

struct Prepared {
  SwigluArgs args;
  at::Tensor gate, up;
  int64_t rows = 0, grain = 1;
};

Prepared prepare(const at::Tensor& gate, const at::Tensor& up) {
  Prepared p;
  p.gate = as_rows(gate);
  p.up = as_rows(up);
  p.args.gate = p.gate.const_data_ptr();
  p.args.up = p.up.const_data_ptr();
  p.args.gate_stride = p.gate.stride(0);
  p.args.up_stride = p.up.stride(0);
  p.args.width = p.gate.size(1);
  p.args.bf16 = gate.scalar_type() == at::kBFloat16;
  p.rows = p.gate.size(0);
  p.grain = std::max<int64_t>(1, kGrain / p.args.width);
  return p;
}

const CudaKernels* kernels_for(const at::Tensor& gate, const at::Tensor& up) {
  const CudaKernels* kernels = gate.is_cuda() && gate.numel() > 0 ? cuda_kernels() : nullptr;
  return kernels != nullptr && kernels->swiglu_supports != nullptr && kernels->swiglu_supports(gate, up) ? kernels : nullptr;
}

at::Tensor forward_of(const at::Tensor& gate, const at::Tensor& up) {
  if (gate.is_cuda()) {
    const at::Tensor gate_rows = as_rows(gate), up_rows = as_rows(up);
    if (const CudaKernels* kernels = kernels_for(gate_rows, up_rows)) {
      at::Tensor y = at::empty(gate.sizes(), gate.options());
      kernels->swiglu_forward(gate_rows, up_rows, y);
      return y;
    }
  }
  if (!gate.is_cpu()) return at::silu(gate).mul_(up);
  at::Tensor y = at::empty(gate.sizes(), gate.options());
  if (y.numel() == 0) return y;
  Prepared p = prepare(gate, up);
  p.args.y = y.mutable_data_ptr();
  const SwigluKernels& kernels = swiglu_kernels();
  at::parallel_for(0, p.rows, p.grain, [&](int64_t begin, int64_t end) { kernels.forward(p.args, begin, end); });
  return y;
}

std::tuple<at::Tensor, at::Tensor> backward_of(const at::Tensor& grad, const at::Tensor& gate, const at::Tensor& up) {
  if (gate.is_cuda()) {
    const at::Tensor gate_rows = as_rows(gate), up_rows = as_rows(up);
    if (const CudaKernels* kernels = kernels_for(gate_rows, up_rows)) {
      at::Tensor dgate = at::empty(gate.sizes(), gate.options()), dup = at::empty(gate.sizes(), gate.options());
      kernels->swiglu_backward(grad.contiguous(), gate_rows, up_rows, as_rows(dgate), as_rows(dup));
      return {dgate, dup};
    }
  }
  if (!gate.is_cpu()) return {at::silu_backward(grad * up, gate), at::silu(gate).mul_(grad)};
  at::Tensor dgate = at::empty(gate.sizes(), gate.options()), dup = at::empty(gate.sizes(), gate.options());
  if (dgate.numel() == 0) return {dgate, dup};
  Prepared p = prepare(gate, up);
  const at::Tensor g = grad.contiguous();
  p.args.grad = g.const_data_ptr();
  p.args.grad_gate = dgate.mutable_data_ptr();
  p.args.grad_up = dup.mutable_data_ptr();
  const SwigluKernels& kernels = swiglu_kernels();
  at::parallel_for(0, p.rows, p.grain, [&](int64_t begin, int64_t end) { kernels.backward(p.args, begin, end); });
  return {dgate, dup};
}

struct SwigluFunction : torch::autograd::Function<SwigluFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& gate, const at::Tensor& up) {
    context->save_for_backward({gate, up});
    return forward_of(gate, up);
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const variable_list saved = context->get_saved_variables();
    auto [dgate, dup] = backward_of(grads[0], saved[0], saved[1]);
    return {dgate, dup};
  }
};

std::pair<at::Tensor, at::Tensor> halves(const at::Tensor& both) {
  const int64_t width = both.size(-1) / 2;
  return {both.narrow(-1, 0, width), both.narrow(-1, width, width)};
}

struct SwigluJointFunction : torch::autograd::Function<SwigluJointFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& both) {
    context->save_for_backward({both});
    const auto [gate, up] = halves(both);
    return forward_of(gate, up);
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const at::Tensor both = context->get_saved_variables()[0];
    const auto [gate, up] = halves(both);
    if (both.is_cuda()) {
      const at::Tensor gate_rows = as_rows(gate), up_rows = as_rows(up);
      if (const CudaKernels* kernels = kernels_for(gate_rows, up_rows)) {
        at::Tensor d = at::empty(both.sizes(), both.options());
        const auto [dgate, dup] = halves(as_rows(d));
        kernels->swiglu_backward(grads[0].contiguous(), gate_rows, up_rows, dgate, dup);
        return {d};
      }
    }
    const auto [dgate, dup] = backward_of(grads[0], gate, up);
    return {at::cat({dgate, dup}, -1)};
  }
};

bool served(const at::Tensor& x) {
  return (x.is_cpu() || x.is_cuda()) && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16);
}

}  // namespace

const SwigluKernels& swiglu_kernels() {
  switch (cpu_isa()) {
    case Isa::kAvx512:
      return swiglu_kernels_avx512;
    case Isa::kAvx2:
      return swiglu_kernels_avx2;
    default:
      return swiglu_kernels_generic;
  }
}

at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up) {
  require_sizes("swiglu", "up", up, gate.sizes(), "the shape of gate");
  require_type("swiglu", "up", up, gate.scalar_type());
  require_device("swiglu", "up", up, "gate", gate);
  if (!served(gate)) return swiglu_reference(gate, up);
  if (at::GradMode::is_enabled() && (gate.requires_grad() || up.requires_grad())) return SwigluFunction::apply(gate, up);
  return forward_of(gate, up);
}

at::Tensor swiglu_joint(const at::Tensor& both) {
  CAIRN_CHECK(both.dim() >= 1 && both.size(-1) % 2 == 0, "swiglu: halves of {} numbers", both.dim() ? both.size(-1) : 1);
  const auto [gate, up] = halves(both);
  if (!served(both)) return swiglu_reference(gate, up);
  if (at::GradMode::is_enabled() && both.requires_grad()) return SwigluJointFunction::apply(both);
  return forward_of(gate, up);
}

}  // namespace cairn
