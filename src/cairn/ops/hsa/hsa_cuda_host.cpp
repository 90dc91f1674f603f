// Memory attention on a GPU by kernels of our own: checks, workspace and stream. The kernels: ops/hsa/cuda, described in
// docs/kernels-cuda.md.
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDACachingAllocator.h>

#include <array>
#include <cmath>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "cairn/core/error.h"
#include "cairn/ops/cuda/hopper.h"
#include "cairn/ops/cuda/kernels.h"
#include "cairn/ops/cuda/launch.h"
#include "cairn/ops/hsa/cuda/exact_mass.h"
#include "cairn/ops/hsa/cuda/launch.h"
#include "cairn/ops/hsa/cuda/plan.h"
#include "cairn/ops/hsa/exact_mass.h"
#include "cairn/ops/hsa/shapes.h"

namespace cairn {
namespace {

using hsa_cuda::Order;
using hsa_cuda::Params;
using hsa_cuda::Rows;
using hsa_cuda::Workspace;

Params shape_of(const at::Tensor& q, const at::Tensor& k, const at::Tensor& index, const at::Tensor& weight, int64_t chunk) {
  Params p;
  p.B = q.size(0), p.L = q.size(1), p.H = q.size(2), p.G = k.size(2), p.D = q.size(3), p.S = chunk, p.C = k.size(1) / chunk;
  p.N = index.size(3), p.Gi = index.size(2), p.Hw = weight.size(2);
  p.R = static_cast<int32_t>(p.H / p.G);
  p.scale = 1.0f / std::sqrt(static_cast<float>(p.D));
  return p;
}

// Nothing to attend to: o and all gradients are 0.
bool is_empty(const Params& p) { return p.B * p.L * p.N * p.C == 0; }

bool supports(const at::Tensor& q, const at::Tensor& k, const at::Tensor& index, const at::Tensor& weight, int64_t chunk, bool, bool) {
  if (q.scalar_type() != at::kBFloat16 || !runs_hopper(q)) return false;
  const Params p = shape_of(q, k, index, weight, chunk);
  return hsa_cuda::plan_possible(p, /*backward=*/true) && hsa_cuda::plan_possible(p, /*backward=*/false);
}

// Whether the copy engine can fetch rows of x as they lie: whole 16 bytes, positive steps of the dimensions.
bool fetchable(const at::Tensor& x) {
  if (reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 != 0 || x.stride(3) != 1) return false;
  for (int64_t d = 0; d < 3; ++d) {
    if (x.size(d) > 1 && (x.stride(d) <= 0 || x.stride(d) % 8 != 0)) return false;
  }
  return true;
}

// x as the copy engine can fetch it, kept alive in *hold.
Rows rows_of(const at::Tensor& x, at::Tensor* hold) {
  *hold = fetchable(x) ? x : x.clone(at::MemoryFormat::Contiguous);
  return {hold->const_data_ptr(), hold->stride(0), hold->stride(1), hold->stride(2)};
}

// Operands and workspace of one launch; owns what Params points to.
class Launch {
 public:
  Params p;
  bool backward;

  Launch(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& index, const at::Tensor& weight, int64_t chunk,
         bool off_by_one, bool backward_in)
      : p(shape_of(q, k, index, weight, chunk)), backward(backward_in) {
    p.off_by_one = off_by_one;
    p.q = rows_of(q, &hold_[0]), p.k = rows_of(k, &hold_[1]), p.v = rows_of(v, &hold_[2]);
    hold_[3] = index.contiguous(), hold_[4] = weight.contiguous();
    p.index = hold_[3].const_data_ptr<int64_t>();
    p.weight = hold_[4].const_data_ptr();
    p.weight_bf16 = weight.scalar_type() == at::kBFloat16;
  }
  void set_grads(const at::Tensor& grad_o, const at::Tensor& grad_lse) {
    p.grad_o = rows_of(grad_o, &hold_[5]);
    if (!grad_lse.defined()) return;
    hold_[6] = grad_lse.to(at::kFloat).contiguous();
    p.grad_lse = hold_[6].const_data_ptr<float>();
  }

  // The forward, in whichever order suits sizes and selection.
  void run_forward() {
    Order order = hsa_cuda::forward_order(&p);
    if (const char* wanted = std::getenv("CAIRN_HSA_ORDER"); wanted != nullptr) {  // for tests and comparisons
      if (std::string_view(wanted) == "row") order = Order::kRow;
      if (std::string_view(wanted) == "chunk") order = Order::kChunk;
      if (std::string_view(wanted) == "union" && p.union_stages > 0) order = Order::kUnion;
    }
    if (order == Order::kRow) return check_launch(hsa_cuda::launch_few_rows(p, current_stream()));
    if (order == Order::kAsk) {
      int* answer = static_cast<int*>(bytes(sizeof(int)));
      check_launch(hsa_cuda::launch_sharing(p, answer, current_stream()));
      p.in_union_order = answer;
    }
    if (order != Order::kChunk) check_launch(hsa_cuda::launch_union_forward(p, multiprocessors(hold_[0]), current_stream()));
    if (order != Order::kUnion) run();
  }

  // Cuts the work, inverts the selection and runs the kernel of the width in chunk order.
  void run() {
    const cudaStream_t stream = current_stream();
    const bool ordered = backward && at::globalContext().deterministicAlgorithms();
    const Workspace sizes = hsa_cuda::plan(&p, backward, ordered, multiprocessors(hold_[0]));
    const int64_t pairs = p.B * p.L * p.Gi * p.N;
    const bool counting = p.in_union_order != nullptr && hsa_cuda::counting_fits(p);
    const size_t space_bytes = counting ? hsa_cuda::counting_workspace_bytes(p) : hsa_cuda::inversion_workspace_bytes(pairs),
                 counter_bytes = static_cast<size_t>(sizes.counter_bytes);
    uint32_t* lists = static_cast<uint32_t*>(bytes((counting ? 8 : 16) * pairs));
    void* space = bytes(static_cast<int64_t>(space_bytes));
    void* counters = bytes(sizes.counter_bytes);
    p.partial = bytes(sizes.partial_bytes);
    if (sizes.dot_bytes > 0) p.partial_dot = static_cast<float*>(bytes(sizes.dot_bytes));
    hsa_cuda::set_counters(&p, counters, sizes.before > 0);
    if (counting) {
      check_launch(hsa_cuda::launch_counting_inversion(&p, lists, lists + pairs, space, space_bytes, counters, counter_bytes, stream));
    } else {
      check_launch(hsa_cuda::launch_inversion(&p, lists, lists + 2 * pairs, space, space_bytes, counters, counter_bytes, stream));
    }
    if (ordered) {
      unsigned int* starts = static_cast<unsigned int*>(bytes(4 * (sizes.starts + sizes.before)));
      check_launch(hsa_cuda::launch_starts(&p, starts, sizes.before > 0 ? starts + sizes.starts : nullptr, stream));
    }
    if (sizes.run_bytes > 0) {
      p.runs = static_cast<float*>(bytes(sizes.run_bytes));
    } else if (backward) {
      const int64_t numbers = p.B * p.G * p.C * p.S * p.D;
      sums_ = at::zeros({2, sizes.copies, numbers}, hold_[0].options().dtype(at::kFloat));
      p.copy_step = numbers;
      p.dk = sums_.mutable_data_ptr<float>(), p.dv = p.dk + sizes.copies * numbers;
    }
    check_launch(dispatch(stream));
  }

 private:
  // Freed when this launch is out of scope; the caching allocator keeps the memory for this stream's later work. Not by at::empty, which
  // fills memory in deterministic mode.
  void* bytes(int64_t count) {
    space_.push_back(c10::cuda::CUDACachingAllocator::get()->allocate(static_cast<size_t>(count)));
    return space_.back().get();
  }
  cudaError_t dispatch(cudaStream_t stream) const {
    const int processors = multiprocessors(hold_[0]);
    switch (p.D) {
      case 32:
        return backward ? hsa_cuda::launch_backward<32>(p, processors, stream) : hsa_cuda::launch_forward<32>(p, processors, stream);
      case 64:
        return backward ? hsa_cuda::launch_backward<64>(p, processors, stream) : hsa_cuda::launch_forward<64>(p, processors, stream);
      case 96:
        return backward ? hsa_cuda::launch_backward<96>(p, processors, stream) : hsa_cuda::launch_forward<96>(p, processors, stream);
      default:
        return backward ? hsa_cuda::launch_backward<128>(p, processors, stream) : hsa_cuda::launch_forward<128>(p, processors, stream);
    }
  }

  std::array<at::Tensor, 7> hold_;
  std::vector<c10::DataPtr> space_;
  at::Tensor sums_;
};

HsaOutput forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& index, const at::Tensor& weight,
                  int64_t chunk, bool off_by_one, bool want_lse) {
  const c10::cuda::CUDAGuard guard(q.device());
  Launch launch(q, k, v, index, weight, chunk, off_by_one, /*backward=*/false);
  Params& p = launch.p;
  HsaOutput out;
  if (want_lse) out.lse = at::zeros({p.B, p.L, p.H, p.N}, q.options().dtype(at::kFloat));
  if (is_empty(p)) {
    out.o = at::zeros({p.B, p.L, p.H, p.D}, q.options());
    return out;
  }
  out.o = at::empty({p.B, p.L, p.H, p.D}, q.options());
  p.o = out.o.mutable_data_ptr();
  if (want_lse) p.lse = out.lse.mutable_data_ptr<float>();
  launch.run_forward();
  return out;
}

HsaGradients backward_with(const at::Tensor& grad_o, const at::Tensor& grad_lse, const at::Tensor& q, const at::Tensor& k,
                           const at::Tensor& v, const at::Tensor& index, const at::Tensor& weight, int64_t chunk, bool off_by_one,
                           double dot_share) {
  const c10::cuda::CUDAGuard guard(q.device());
  Launch launch(q, k, v, index, weight, chunk, off_by_one, /*backward=*/true);
  Params& p = launch.p;
  p.dot_share = static_cast<float>(dot_share);
  const int64_t M = k.size(1);
  HsaGradients out;
  out.weight = at::zeros({p.B, p.L, p.Hw, p.N}, weight.options());
  if (is_empty(p)) {
    out.q = at::zeros({p.B, p.L, p.H, p.D}, q.options());
    out.k = at::zeros({p.B, M, p.G, p.D}, k.options()), out.v = at::zeros({p.B, M, p.G, p.D}, v.options());
    return out;
  }
  out.q = at::empty({p.B, p.L, p.H, p.D}, q.options());
  out.k = at::empty({p.B, M, p.G, p.D}, k.options()), out.v = at::empty({p.B, M, p.G, p.D}, v.options());
  p.o = out.q.mutable_data_ptr();
  p.dweight = out.weight.mutable_data_ptr();
  launch.set_grads(grad_o, grad_lse);
  launch.run();
  check_launch(hsa_cuda::launch_finish_keys(p, M, out.k.mutable_data_ptr(), out.v.mutable_data_ptr(), current_stream()));
  return out;
}

HsaGradients backward(const at::Tensor& grad_o, const at::Tensor& grad_lse, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                      const at::Tensor& index, const at::Tensor& weight, int64_t chunk, bool off_by_one) {
  return backward_with(grad_o, grad_lse, q, k, v, index, weight, chunk, off_by_one, 1);
}

at::Tensor mass_weights(const at::Tensor& lse, const at::Tensor& score_in, const at::Tensor& index_in, double alpha) {
  const c10::cuda::CUDAGuard guard(lse.device());
  const at::Tensor score = score_in.contiguous(), index = index_in.contiguous(), weight = at::empty(lse.sizes(), lse.options());
  if (weight.numel() == 0) return weight;
  hsa_cuda::MassParams p;
  p.rows = lse.size(0) * lse.size(1) * lse.size(2), p.H = lse.size(2), p.Q = index.size(2), p.N = lse.size(3);
  p.index = index.const_data_ptr<int64_t>(), p.lse = lse.const_data_ptr<float>(), p.score = score.const_data_ptr<float>();
  p.alpha = static_cast<float>(alpha);
  p.weight = weight.mutable_data_ptr<float>();
  check_launch(hsa_cuda::launch_mass_weights(p, current_stream()));
  return weight;
}

HsaGradients exact_mass_backward(const at::Tensor& grad_in, const at::Tensor& o, const at::Tensor& q, const at::Tensor& k,
                                 const at::Tensor& v, const at::Tensor& index, const at::Tensor& weight, double alpha, int64_t chunk) {
  const c10::cuda::CUDAGuard guard(q.device());
  const at::Tensor grad_o = aligned(grad_in.contiguous()), grad_lse = at::empty(weight.sizes(), weight.options());
  if (grad_lse.numel() > 0) {
    hsa_cuda::MassParams p;
    p.rows = weight.size(0) * weight.size(1) * weight.size(2), p.N = weight.size(3), p.D = o.size(3);
    p.alpha = static_cast<float>(alpha);
    p.grad_o = grad_o.const_data_ptr(), p.o = o.const_data_ptr();
    p.known_weight = weight.const_data_ptr<float>(), p.grad_lse = grad_lse.mutable_data_ptr<float>();
    check_launch(hsa_cuda::launch_mass_gradient(p, current_stream()));
  }
  return backward_with(grad_o, grad_lse, q, k, v, index, weight, chunk, false, 1 - alpha);
}

[[maybe_unused]] const bool mass_registered = register_exact_mass_kernels([](ExactMassKernels* table) {
  table->weights = mass_weights;
  table->backward = exact_mass_backward;
});

[[maybe_unused]] const bool registered = register_cuda_kernels([](CudaKernels* table) {
  table->hsa_supports = supports;
  table->hsa_forward = forward;
  table->hsa_backward = backward;
});

}  // namespace
}  // namespace cairn
