// torch.ops.cairn.select and its backward, on the operators of ops/select. The choice has no gradient; the scores of the chosen have.
#include "cairn/ops/select/select.h"

#include <ATen/TensorOperators.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <tuple>

#include "cairn/pytorch/arguments.h"
#include "cairn/pytorch/operators.h"

namespace cairn::pytorch {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Pair = std::tuple<Tensor, Tensor>;

at::ScalarType work_type(const Tensor& rq) { return rq.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

// N slots to top_k of them: the shape does not depend on how many landmarks there are.
Tensor padded(const Tensor& x, int64_t top_k, double value) {
  return x.size(3) == top_k ? x.contiguous() : at::constant_pad_nd(x, {0, top_k - x.size(3)}, value).contiguous();
}

Pair forward(const Tensor& rq, const Tensor& landmarks, int64_t top_k, int64_t chunk, c10::SymInt first_position, c10::SymInt first_chunk,
             c10::SymInt exclude_window, c10::SymInt noise_key) {
  const SelectArguments arguments{"cairn::select", rq, landmarks};
  arguments.check();
  arguments.check_numbers(top_k, chunk, first_position, first_chunk, exclude_window);
  return named(arguments, [&]() -> Pair {
    Visibility visibility;
    visibility.chunk = chunk;
    visibility.first_position = first_position.expect_int();
    visibility.first_chunk = first_chunk.expect_int();
    visibility.exclude_window = exclude_window.expect_int();
    const auto key = static_cast<uint64_t>(noise_key.expect_int());
    const int64_t B = rq.size(0), L = rq.size(1), Q = rq.size(2), C = landmarks.size(1);
    const auto options = rq.options().dtype(work_type(rq));
    if (B * L * C == 0) return {at::zeros({B, L, Q, top_k}, options), at::full({B, L, Q, top_k}, -1, options.dtype(at::kLong))};

    if (key == 0 && rq.scalar_type() != at::kDouble) {
      const Selection found = select_chunks(rq, landmarks, top_k, visibility);
      return {padded(found.score, top_k, 0), padded(found.index, top_k, -1)};
    }
    // Noise and fp64 are for training lengths and tests: all scores at once.
    const Tensor score = landmark_scores(rq, landmarks);
    const Tensor index = select_from_scores(score, top_k, visibility, key).index;
    const Tensor chosen = score.gather(-1, index.clamp_min(0)).masked_fill(index.lt(0), 0);
    return {padded(chosen, top_k, 0), padded(index, top_k, -1)};
  });
}

Pair forward_meta(const Tensor& rq, const Tensor& landmarks, int64_t top_k, int64_t chunk, c10::SymInt first_position,
                  c10::SymInt first_chunk, c10::SymInt exclude_window, c10::SymInt) {
  const SelectArguments arguments{"cairn::select", rq, landmarks};
  arguments.check();
  arguments.check_numbers(top_k, chunk, first_position, first_chunk, exclude_window);
  const auto empty = [&](at::ScalarType type) {
    return at::empty_symint({rq.sym_size(0), rq.sym_size(1), rq.sym_size(2), c10::SymInt(top_k)}, rq.options().dtype(type));
  };
  return {empty(work_type(rq)), empty(at::kLong)};
}

// a b, [n,r,s] [n,s,c], with fp32 (fp64) sums; bf16 operands go into the product of a GPU as they are.
Tensor product(const Tensor& a, const Tensor& b, at::ScalarType work) {
  if (a.scalar_type() == at::kBFloat16 && a.is_cuda()) return at::bmm(a, b, at::kFloat);
  return at::bmm(a.to(work), b.to(work));
}

// With g the gradient spread over all chunks, [L,C]: d rq = g landmarks / sqrt(Dr), d landmarks = g^T rq / sqrt(Dr); blocks of rows.
Pair backward(const Tensor& grad_score, const Tensor& rq, const Tensor& landmarks, const Tensor& index_in) {
  const SelectArguments arguments{"cairn::select_backward", rq, landmarks};
  arguments.check();
  arguments.check_saved(grad_score, index_in);
  return named(arguments, [&]() -> Pair {
    const int64_t B = rq.size(0), L = rq.size(1), Q = rq.size(2), C = landmarks.size(1), N = index_in.size(3), D = rq.size(3);
    const auto work = work_type(rq);
    const bool bf16 = rq.is_cuda() && rq.scalar_type() == at::kBFloat16 && landmarks.scalar_type() == at::kBFloat16;
    const auto type = bf16 ? at::kBFloat16 : work;
    const Tensor grad_rq = at::zeros(rq.sizes(), rq.options());
    Tensor sum = at::zeros({B * Q, C, D}, rq.options().dtype(work));
    if (B * L * C * N > 0) {
      const double scale = 1.0 / std::sqrt(static_cast<double>(D));
      const Tensor table = landmarks.to(type).transpose(1, 2).reshape({B * Q, C, D});
      // Column C takes what stands in unused slots. Real numbers of a row are different, so nothing is written twice.
      const Tensor index = at::where(index_in.lt(0).logical_or(index_in.ge(C)), at::full({}, C, index_in.options()), index_in);
      constexpr int64_t kNumbers = int64_t{1} << 26;
      const int64_t width = (C / 8 + 1) * 8;  // rows of whole 16 bytes: others would slow down the products
      const int64_t step = std::clamp<int64_t>(kNumbers / (B * Q * width), 1, L);
      for (int64_t t = 0; t < L; t += step) {
        const int64_t rows = std::min(step, L - t);
        const auto part = [&](const Tensor& x) { return x.narrow(1, t, rows).transpose(1, 2); };  // [B,Q,rows,...]
        const auto flat = [&](const Tensor& x) { return part(x).reshape({B * Q, rows, x.size(3)}); };
        const Tensor slots = (flat(grad_score).to(work) * scale).to(type);
        const Tensor g = at::zeros({B * Q, rows, width}, slots.options()).scatter_(-1, flat(index), slots).narrow(-1, 0, C);
        part(grad_rq).copy_(product(g, table, work).view({B, Q, rows, D}));
        sum.add_(product(g.transpose(1, 2), flat(rq).to(type), work));
      }
    }
    return {grad_rq, sum.view({B, Q, C, D}).transpose(1, 2).to(landmarks.scalar_type()).contiguous()};
  });
}

Pair backward_meta(const Tensor& grad_score, const Tensor& rq, const Tensor& landmarks, const Tensor& index) {
  const SelectArguments arguments{"cairn::select_backward", rq, landmarks};
  arguments.check();
  arguments.check_saved(grad_score, index);
  return {at::empty_symint(rq.sym_sizes(), rq.options()), at::empty_symint(landmarks.sym_sizes(), landmarks.options())};
}

Pair call_forward(const Tensor& rq, const Tensor& landmarks, int64_t top_k, int64_t chunk, c10::SymInt first_position,
                  c10::SymInt first_chunk, c10::SymInt exclude_window, c10::SymInt noise_key) {
  static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("cairn::select", "").typed<decltype(forward)>();
  return op.call(rq, landmarks, top_k, chunk, std::move(first_position), std::move(first_chunk), std::move(exclude_window),
                 std::move(noise_key));
}

Pair call_backward(const Tensor& grad_score, const Tensor& rq, const Tensor& landmarks, const Tensor& index) {
  static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("cairn::select_backward", "").typed<decltype(backward)>();
  return op.call(grad_score, rq, landmarks, index);
}

struct SelectNode : torch::autograd::Function<SelectNode> {
  static constexpr bool is_traceable = true;

  static variable_list forward(AutogradContext* ctx, const Tensor& rq, const Tensor& landmarks, int64_t top_k, int64_t chunk,
                               const c10::SymInt& first_position, const c10::SymInt& first_chunk, const c10::SymInt& exclude_window,
                               const c10::SymInt& noise_key) {
    const at::AutoDispatchBelowADInplaceOrView below;
    const auto [score, index] = call_forward(rq, landmarks, top_k, chunk, first_position, first_chunk, exclude_window, noise_key);
    ctx->save_for_backward({rq, landmarks, index});
    ctx->set_materialize_grads(false);
    return {score, index};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    variable_list out(8);
    if (!grads[0].defined()) return out;
    const variable_list saved = ctx->get_saved_variables();
    std::tie(out[0], out[1]) = call_backward(grads[0], saved[0], saved[1], saved[2]);
    return out;
  }
};

Pair forward_autograd(const Tensor& rq, const Tensor& landmarks, int64_t top_k, int64_t chunk, c10::SymInt first_position,
                      c10::SymInt first_chunk, c10::SymInt exclude_window, c10::SymInt noise_key) {
  const variable_list out = SelectNode::apply(rq, landmarks, top_k, chunk, first_position, first_chunk, exclude_window, noise_key);
  return {out[0], out[1]};
}

struct SelectBackwardNode : torch::autograd::Function<SelectBackwardNode> {
  static constexpr bool is_traceable = true;

  static variable_list forward(AutogradContext*, const Tensor& grad_score, const Tensor& rq, const Tensor& landmarks, const Tensor& index) {
    const at::AutoDispatchBelowADInplaceOrView below;
    const auto [grad_rq, grad_landmarks] = call_backward(grad_score, rq, landmarks, index);
    return {grad_rq, grad_landmarks};
  }

  static variable_list backward(AutogradContext*, const variable_list&) {
    TORCH_CHECK_NOT_IMPLEMENTED(
        false, "cairn::select: it has no second derivative; differentiate once, or use cairn.plain, which is plain PyTorch");
  }
};

Pair backward_autograd(const Tensor& grad_score, const Tensor& rq, const Tensor& landmarks, const Tensor& index) {
  const variable_list out = SelectBackwardNode::apply(grad_score, rq, landmarks, index);
  return {out[0], out[1]};
}

// Scores are fp32 sums whatever the operands, so torch.autocast changes fp16 alone, which the operator does not take.
template <at::DeviceType device, c10::DispatchKey key>
Pair forward_autocast(const Tensor& rq, const Tensor& landmarks, int64_t top_k, int64_t chunk, c10::SymInt first_position,
                      c10::SymInt first_chunk, c10::SymInt exclude_window, c10::SymInt noise_key) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
  const auto cast = [&](const Tensor& x) { return x.scalar_type() == at::kHalf ? at::autocast::cached_cast(at::kFloat, x, device) : x; };
  return call_forward(cast(rq), cast(landmarks), top_k, chunk, std::move(first_position), std::move(first_chunk), std::move(exclude_window),
                      std::move(noise_key));
}

}  // namespace

void implement_select(const Keys& keys) {
  keys.cpu.impl("select", TORCH_FN(forward));
  keys.cuda.impl("select", TORCH_FN(forward));
  keys.meta.impl("select", TORCH_FN(forward_meta));
  keys.autograd.impl("select", TORCH_FN(forward_autograd));
  keys.autocast_cpu.impl("select", TORCH_FN((forward_autocast<at::kCPU, c10::DispatchKey::AutocastCPU>)));
  keys.autocast_cuda.impl("select", TORCH_FN((forward_autocast<at::kCUDA, c10::DispatchKey::AutocastCUDA>)));
  keys.cpu.impl("select_backward", TORCH_FN(backward));
  keys.cuda.impl("select_backward", TORCH_FN(backward));
  keys.meta.impl("select_backward", TORCH_FN(backward_meta));
  keys.autograd.impl("select_backward", TORCH_FN(backward_autograd));
}

}  // namespace cairn::pytorch
