// Choice of the path, and autograd: the forward, which has both softmaxes at hand, writes the gradient too, up to the factor that comes
// from above; nothing else is kept.
#include "cairn/ops/distillation/distillation.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <tuple>

#include "cairn/core/error.h"
#include "cairn/ops/cuda/kernels.h"
#include "cairn/ops/distillation/plain.h"
#include "cairn/ops/select/select.h"

namespace cairn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

const CudaKernels* kernels_for(const at::Tensor& lse, const at::Tensor& score) {
  const CudaKernels* kernels = score.is_cuda() ? cuda_kernels() : nullptr;
  return kernels != nullptr && kernels->distillation_supports != nullptr && kernels->distillation_supports(lse, score) ? kernels : nullptr;
}

// {out [B,L], d out / d score [B,L,C] if wanted} in blocks of rows, so that what lies between holds at most so many numbers, and chunks
// that no row of a block sees are left out.
std::tuple<at::Tensor, at::Tensor> plain(const at::Tensor& lse, const at::Tensor& score, int64_t chunk, MassOrder order, bool want_slope) {
  constexpr int64_t kNumbersCpu = int64_t{1} << 18, kNumbersGpu = int64_t{1} << 26;
  const int64_t B = lse.size(0), L = lse.size(1), H = lse.size(2), C = lse.size(3);
  const at::Tensor out = at::zeros({B, L}, score.options()), slope = want_slope ? at::zeros(score.sizes(), score.options()) : at::Tensor();
  if (score.numel() == 0) return {out, slope};
  const int64_t rows = std::max<int64_t>((score.is_cpu() ? kNumbersCpu : kNumbersGpu) / (B * H * C), 1);
  for (int64_t first = chunk, next = 0; first < L; first = next) {
    next = std::min(first + rows, L);
    const int64_t seen = std::min((next - 1) / chunk, C);  // by the last row; the first one sees a chunk, too
    const auto cut = [&](const at::Tensor& x) { return x.narrow(1, first, next - first).narrow(-1, 0, seen); };
    Visibility v;
    v.chunk = chunk, v.first_position = first;
    const at::Tensor closed = visible_chunks(next - first, seen, v, score.device()).logical_not();
    const at::Tensor mass = mean_mass(cut(lse), closed, order), log_p = cut(score).masked_fill(closed, -1e30).log_softmax(-1);
    out.narrow(1, first, next - first).copy_((mass * log_p).masked_fill_(mass == 0, 0).sum(-1).neg_());
    if (want_slope) cut(slope).copy_(log_p.exp().mul_(mass.sum(-1, true)).sub_(mass).masked_fill_(closed, 0));
  }
  return {out, slope};
}

std::tuple<at::Tensor, at::Tensor> rows_of(const at::Tensor& lse, const at::Tensor& score, int64_t chunk, MassOrder order,
                                           bool want_slope) {
  const CudaKernels* kernels = kernels_for(lse, score);
  return kernels != nullptr ? kernels->distillation_forward(lse, score, chunk, order == MassOrder::kNearestFirst, want_slope)
                            : plain(lse, score, chunk, order, want_slope);
}

struct DistillationFunction : torch::autograd::Function<DistillationFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& score, const at::Tensor& lse, int64_t chunk, bool nearest_first) {
    const auto [out, slope] =
        rows_of(lse, score, chunk, nearest_first ? MassOrder::kNearestFirst : MassOrder::kByChunk, /*want_slope=*/true);
    context->save_for_backward({slope});
    context->saved_data["chunk"] = chunk;
    context->saved_data["by_kernels"] = kernels_for(lse, score) != nullptr;  // what is not visible is then undefined in `slope`
    return out;
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const at::Tensor slope = context->get_saved_variables()[0];
    const at::Tensor dscore = context->saved_data["by_kernels"].toBool()
                                  ? cuda_kernels()->distillation_backward(grads[0], slope, context->saved_data["chunk"].toInt())
                                  : slope * grads[0].unsqueeze(2);
    return {dscore, {}, {}, {}};
  }
};

}  // namespace

at::Tensor landmark_distillation(const at::Tensor& lse_in, const at::Tensor& score, int64_t chunk, MassOrder order) {
  CAIRN_CHECK(lse_in.dim() == 4 && score.dim() == 3 && chunk >= 1, "landmark_distillation: lse of {}, score of {} dimensions, chunk {}",
              lse_in.dim(), score.dim(), chunk);
  CAIRN_CHECK(lse_in.size(0) == score.size(0) && lse_in.size(1) == score.size(1) && lse_in.size(3) == score.size(2) && lse_in.size(2) >= 1,
              "landmark_distillation: lse [{},{},{},{}], score [{},{},{}]", lse_in.size(0), lse_in.size(1), lse_in.size(2), lse_in.size(3),
              score.size(0), score.size(1), score.size(2));
  CAIRN_CHECK(lse_in.scalar_type() == score.scalar_type() && (score.scalar_type() == at::kFloat || score.scalar_type() == at::kDouble) &&
                  lse_in.device() == score.device(),
              "landmark_distillation: lse and score are both fp32 or both fp64, on one device");
  const at::Tensor lse = lse_in.detach();
  if (score.scalar_type() == at::kDouble) return landmark_distillation_reference(lse, score, chunk, order);
  if (at::GradMode::is_enabled() && score.requires_grad()) {
    return DistillationFunction::apply(score, lse, chunk, order == MassOrder::kNearestFirst);
  }
  return std::get<0>(rows_of(lse, score, chunk, order, /*want_slope=*/false));
}

}  // namespace cairn
