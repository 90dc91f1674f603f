// Choice of the path, and autograd: what is saved are the inputs alone, because each chunk's softmax is complete in itself and is made
// again.
#include "cairn/ops/hsa/hsa.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "cairn/ops/cuda/kernels.h"
#include "cairn/ops/hsa/cpu.h"
#include "cairn/ops/hsa/cuda.h"
#include "cairn/ops/hsa/shapes.h"

namespace cairn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

enum class Path { kReference, kCpu, kKernels, kPairs, kDense };

// The flash attention behind kPairs takes widths up to 256 in steps of 8 and has at most 65,535 parts: a chunk of each selecting group.
bool pairs_can(const at::Tensor& q, int64_t chunks, const at::Tensor& index) {
  return q.size(3) % 8 == 0 && q.size(3) <= 256 && chunks * index.size(2) <= kMostParts;
}

Path choose(const at::Tensor& q, const at::Tensor& k, const at::Tensor& index, const at::Tensor& weight, int64_t chunk, bool off_by_one,
            bool want_lse) {
  const auto dtype = q.scalar_type();
  if (dtype != at::kFloat && dtype != at::kBFloat16) return Path::kReference;
  if (q.is_cpu()) return Path::kCpu;
  if (!q.is_cuda()) return Path::kReference;
  const CudaKernels* kernels = cuda_kernels();
  if (kernels != nullptr && kernels->hsa_supports != nullptr && kernels->hsa_supports(q, k, index, weight, chunk, off_by_one, want_lse)) {
    return Path::kKernels;
  }
  const int64_t chunks = k.size(1) / chunk;
  if (dtype == at::kBFloat16 && !off_by_one && !want_lse && pairs_can(q, chunks, index)) return Path::kPairs;
  // Products with all chunks are many times faster a number than gathering the selected ones, up to a point.
  return chunks <= 16 * std::max<int64_t>(index.size(3), 4) ? Path::kDense : Path::kReference;
}

HsaOutput run(Path path, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& index, const at::Tensor& weight,
              int64_t chunk, bool off_by_one, bool want_lse) {
  if (path == Path::kCpu) return hsa_cpu_forward(q, k, v, index, weight, chunk, off_by_one, want_lse);
  if (path == Path::kKernels) return cuda_kernels()->hsa_forward(q, k, v, index, weight, chunk, off_by_one, want_lse);
  if (path == Path::kPairs) return {hsa_pairs_forward(q, k, v, index, weight, chunk), at::Tensor()};
  return hsa_dense_forward(q, k, v, index, weight, chunk, off_by_one, want_lse);
}

struct HsaFunction : torch::autograd::Function<HsaFunction> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& index,
                               const at::Tensor& weight, int64_t chunk, bool off_by_one, bool want_lse, int64_t path) {
    ctx->save_for_backward({q, k, v, index, weight});
    ctx->saved_data["chunk"] = chunk;
    ctx->saved_data["off_by_one"] = off_by_one;
    ctx->saved_data["path"] = path;
    ctx->set_materialize_grads(false);
    HsaOutput out = run(static_cast<Path>(path), q, k, v, index, weight, chunk, off_by_one, want_lse);
    return want_lse ? variable_list{out.o, out.lse} : variable_list{out.o};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    constexpr size_t kArguments = 9;
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &q = saved[0], &k = saved[1], &v = saved[2], &index = saved[3], &weight = saved[4];
    const int64_t chunk = ctx->saved_data["chunk"].toInt();
    const bool off_by_one = ctx->saved_data["off_by_one"].toBool();
    const Path path = static_cast<Path>(ctx->saved_data["path"].toInt());
    const at::Tensor grad_lse = grads.size() > 1 ? grads[1] : at::Tensor();
    if (!grads[0].defined() && !grad_lse.defined()) return variable_list(kArguments);
    const at::Tensor grad_o = grads[0].defined() ? grads[0] : at::zeros_like(q);
    HsaGradients d;
    if (path == Path::kCpu) d = hsa_cpu_backward(grad_o, grad_lse, q, k, v, index, weight, chunk, off_by_one);
    if (path == Path::kKernels) d = cuda_kernels()->hsa_backward(grad_o, grad_lse, q, k, v, index, weight, chunk, off_by_one);
    if (path == Path::kPairs) d = hsa_pairs_backward(grad_o, q, k, v, index, weight, chunk);
    if (path == Path::kDense) d = hsa_dense_backward(grad_o, grad_lse, q, k, v, index, weight, chunk, off_by_one);
    variable_list out(kArguments);
    out[0] = d.q, out[1] = d.k, out[2] = d.v, out[4] = d.weight;
    return out;
  }
};

}  // namespace

HsaOutput hsa(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& index, const at::Tensor& weight,
              int64_t chunk, bool off_by_one, bool want_lse) {
  hsa_shape(q, k, v, index, weight, chunk);
  const Path path = choose(q, k, index, weight, chunk, off_by_one, want_lse);
  if (path == Path::kReference) return hsa_reference(q, k, v, index, weight, chunk, off_by_one, want_lse);
  const bool graph = at::GradMode::is_enabled() && (q.requires_grad() || k.requires_grad() || v.requires_grad() || weight.requires_grad());
  if (!graph) return run(path, q, k, v, index, weight, chunk, off_by_one, want_lse);
  const variable_list out = HsaFunction::apply(q, k, v, index, weight, chunk, off_by_one, want_lse, static_cast<int64_t>(path));
  return {out[0], want_lse ? out[1] : at::Tensor()};
}

}  // namespace cairn
