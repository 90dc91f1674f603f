// Choice of the path, and autograd: what is saved are the inputs alone, because each chunk's softmax is complete in itself and is made
// again.
#include "cairn/ops/hsa/hsa.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "cairn/ops/cuda/kernels.h"
#include "cairn/ops/hsa/cpu.h"
#include "cairn/ops/hsa/cuda.h"
#include "cairn/ops/hsa/direct.h"
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

HsaGradients gradients(Path path, const at::Tensor& grad_o, const at::Tensor& grad_lse, const at::Tensor& q, const at::Tensor& k,
                       const at::Tensor& v, const at::Tensor& index, const at::Tensor& weight, int64_t chunk, bool off_by_one) {
  if (path == Path::kCpu) return hsa_cpu_backward(grad_o, grad_lse, q, k, v, index, weight, chunk, off_by_one);
  if (path == Path::kKernels) return cuda_kernels()->hsa_backward(grad_o, grad_lse, q, k, v, index, weight, chunk, off_by_one);
  if (path == Path::kPairs) return hsa_pairs_backward(grad_o, q, k, v, index, weight, chunk);
  return hsa_dense_backward(grad_o, grad_lse, q, k, v, index, weight, chunk, off_by_one);
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
    const HsaGradients d = gradients(path, grad_o, grad_lse, q, k, v, index, weight, chunk, off_by_one);
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

namespace {

// The reference gathers the keys of every slot: rows go by in blocks of some of them.
constexpr int64_t kGatheredNumbers = int64_t{1} << 26;

int64_t rows_a_block(const at::Tensor& q, const at::Tensor& k, const at::Tensor& index, int64_t chunk) {
  const int64_t a_row = q.size(0) * k.size(2) * index.size(3) * chunk * q.size(3);
  return std::clamp<int64_t>(kGatheredNumbers / std::max<int64_t>(a_row, 1), 1, std::max<int64_t>(q.size(1), 1));
}

at::Tensor known_chunks(const at::Tensor& index, int64_t chunks) {
  return at::where(index.ge(chunks), at::full({}, -1, index.options()), index);
}

}  // namespace

HsaOutput hsa_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& index_in, const at::Tensor& weight,
                      int64_t chunk, bool off_by_one, bool want_lse) {
  const HsaShape z = hsa_shape(q, k, v, index_in, weight, chunk);
  const at::NoGradGuard no_graph;
  const Path path = choose(q, k, index_in, weight, chunk, off_by_one, want_lse);
  const at::Tensor index = q.is_cpu() || path == Path::kKernels ? index_in : known_chunks(index_in, z.chunks);
  if (path != Path::kReference) return run(path, q, k, v, index, weight, chunk, off_by_one, want_lse);
  HsaOutput out;
  out.o = at::empty(q.sizes(), q.options());
  if (want_lse) {
    const auto work = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    out.lse = at::empty({z.batch, z.rows, z.heads, z.slots}, q.options().dtype(work));
  }
  const int64_t step = rows_a_block(q, k, index, chunk);
  for (int64_t t = 0; t < z.rows; t += step) {
    const auto cut = [&](const at::Tensor& x) { return x.narrow(1, t, std::min(step, z.rows - t)); };
    const HsaOutput part = hsa_reference(cut(q), k, v, cut(index), cut(weight), chunk, off_by_one, want_lse);
    cut(out.o).copy_(part.o);
    if (want_lse) cut(out.lse).copy_(part.lse);
  }
  return out;
}

HsaGradients hsa_backward(const at::Tensor& grad_o, const at::Tensor& grad_lse, const at::Tensor& q, const at::Tensor& k,
                          const at::Tensor& v, const at::Tensor& index_in, const at::Tensor& weight, int64_t chunk, bool off_by_one) {
  const HsaShape z = hsa_shape(q, k, v, index_in, weight, chunk);
  const at::NoGradGuard no_graph;
  const Path path = choose(q, k, index_in, weight, chunk, off_by_one, grad_lse.defined());
  const at::Tensor index = q.is_cpu() || path == Path::kKernels ? index_in : known_chunks(index_in, z.chunks);
  if (path != Path::kReference) return gradients(path, grad_o, grad_lse, q, k, v, index, weight, chunk, off_by_one);
  // Sums of dk and dv over the blocks in fp32 (fp64), whatever the operands.
  const auto work = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  HsaGradients out = {at::empty(q.sizes(), q.options()), at::zeros(k.sizes(), k.options().dtype(work)),
                      at::zeros(v.sizes(), v.options().dtype(work)), at::empty(weight.sizes(), weight.options())};
  const at::Tensor k_work = k.to(work), v_work = v.to(work);
  const int64_t step = rows_a_block(q, k, index, chunk);
  for (int64_t t = 0; t < z.rows; t += step) {
    const auto cut = [&](const at::Tensor& x) { return x.narrow(1, t, std::min(step, z.rows - t)); };
    const at::Tensor part_lse = grad_lse.defined() ? cut(grad_lse) : grad_lse;
    const HsaGradients part =
        hsa_reference_backward(cut(grad_o), part_lse, cut(q).to(work), k_work, v_work, cut(index), cut(weight).to(work), chunk, off_by_one);
    cut(out.q).copy_(part.q);
    cut(out.weight).copy_(part.weight);
    out.k.add_(part.k);
    out.v.add_(part.v);
  }
  out.k = out.k.to(k.scalar_type()), out.v = out.v.to(v.scalar_type());
  return out;
}

}  // namespace cairn
