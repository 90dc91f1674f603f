// Checks and stream of memory attention over pages.
#include <ATen/ops/empty.h>

#include <cmath>
#include <memory>

#include "cairn/core/error.h"
#include "cairn/ops/cuda/hopper.h"
#include "cairn/ops/cuda/launch.h"
#include "cairn/ops/hsa/cuda/pages.h"
#include "cairn/ops/norm/norm.h"
#include "cairn/ops/step/kernels.h"

namespace cairn {
namespace {

static_assert(kNormEps == 1e-6);
constexpr int64_t kAlignment = 16, kMostBlocks = 1 << 20;

bool is_aligned(const at::Tensor& x) { return reinterpret_cast<uintptr_t>(x.const_data_ptr()) % kAlignment == 0; }

// On the device of `like`, or in host memory that it reaches.
bool is_page(const at::Tensor& x, const at::Tensor& like, at::ScalarType type) {
  const int64_t D = x.size(4), G = x.size(3), S = x.size(2);
  return (x.device() == like.device() || (x.is_cpu() && x.is_pinned())) && x.scalar_type() == type && is_aligned(x) && x.stride(4) == 1 &&
         (G == 1 || x.stride(3) == D) && (S == 1 || x.stride(2) == G * D) && (x.size(1) == 1 || x.stride(1) == S * G * D) &&
         (x.size(0) == 1 || x.stride(0) % 8 == 0);
}

// bf16 on the device of `like`, in the order of the rows of x.
bool is_scale(const at::Tensor& scale, const at::Tensor& x, const at::Tensor& like) {
  if (scale.device() != like.device() || scale.scalar_type() != at::kBFloat16 || scale.sizes() != x.sizes().slice(0, 4)) return false;
  const int64_t G = x.size(3), S = x.size(2);
  return (G == 1 || scale.stride(3) == 1) && (S == 1 || scale.stride(2) == G) && (x.size(1) == 1 || scale.stride(1) == S * G) &&
         (x.size(0) == 1 || scale.stride(0) * x.size(4) == x.stride(0));
}

bool supports(const at::Tensor& q, const at::Tensor& gain, const ChunkPages& pages, const at::Tensor& index, const at::Tensor& score) {
  const int64_t D = q.size(3), N = index.size(3);
  if (!runs_hopper(q) || q.scalar_type() != at::kBFloat16 || (D != 32 && D != 64 && D != 96 && D != 128)) return false;
  if (q.stride(3) != 1 || q.stride(2) != D || (q.size(0) > 1 && q.stride(0) % 8 != 0) || !is_aligned(q)) return false;
  if (gain.scalar_type() != at::kFloat || !gain.is_contiguous() || !is_aligned(gain) || gain.device() != q.device()) return false;
  if (N < 1 || N > hsa_cuda::kMostSlots || index.device() != q.device() || score.scalar_type() != at::kFloat) return false;
  if (pages.k.empty() || pages.k.size() > hsa_cuda::kMostPages) return false;
  for (size_t i = 0; i < pages.k.size(); ++i) {
    const bool bytes = !pages.k_scale.empty();
    const auto type = bytes ? at::kChar : at::kBFloat16;
    if (!is_page(pages.k[i], q, type) || !is_page(pages.v[i], q, type)) return false;
    if (bytes && (!is_scale(pages.k_scale[i], pages.k[i], q) || !is_scale(pages.v_scale[i], pages.v[i], q))) return false;
    if (pages.k[i].size(0) > 1 && pages.k[i].stride(0) != pages.v[i].stride(0)) return false;
  }
  const int64_t G = pages.k[0].size(3), Gi = index.size(2);
  return pages.k[0].size(4) == D && q.size(2) % G == 0 && (Gi == 1 || Gi == G) && q.size(0) * q.size(2) * 8 <= kMostBlocks;
}

template <typename Table>
void launch(hsa_cuda::PagesParams p, const ChunkPages& pages) {
  const auto table = std::make_unique<Table>();
  for (size_t i = 0; i < pages.k.size(); ++i) {
    const at::Tensor &k = pages.k[i], &v = pages.v[i];
    if (k.size(1) == 0) continue;
    table->k[p.page_count] = k.const_data_ptr(), table->v[p.page_count] = v.const_data_ptr();
    if constexpr (Table::kBytes) {
      table->k_scale[p.page_count] = static_cast<const uint16_t*>(pages.k_scale[i].const_data_ptr());
      table->v_scale[p.page_count] = static_cast<const uint16_t*>(pages.v_scale[i].const_data_ptr());
    }
    table->begin[p.page_count] = p.chunks;
    table->batch_stride[p.page_count++] = k.stride(0);
    p.chunks += k.size(1);
  }
  check_launch(hsa_cuda::launch_pages(p, *table, current_stream()));
}

at::Tensor attend(const at::Tensor& q, const at::Tensor& gain, const ChunkPages& pages, const at::Tensor& index_in,
                  const at::Tensor& score_in, const ChunkWeighting& weighting) {
  const c10::cuda::CUDAGuard guard(q.device());
  const at::Tensor index = index_in.contiguous(), score = score_in.contiguous();
  const int64_t B = q.size(0), H = q.size(2), D = q.size(3), S = pages.k[0].size(2), G = pages.k[0].size(3);
  const at::Tensor o = at::empty({B, 1, H, D}, q.options());
  if (B == 0) return o;
  hsa_cuda::PagesParams p = {};
  p.q = q.const_data_ptr();
  p.q_stride = q.stride(0);
  p.gain = gain.const_data_ptr<float>();
  p.index = index.const_data_ptr<int64_t>();
  p.score = score.const_data_ptr<float>();
  p.o = o.mutable_data_ptr();
  p.first_chunk = pages.first_chunk, p.chunk_stride = S * G * D;
  p.batch = static_cast<int>(B), p.heads = static_cast<int>(H), p.groups = static_cast<int>(G), p.head_dim = static_cast<int>(D);
  p.chunk = static_cast<int>(S), p.slots = static_cast<int>(index.size(3)), p.selections = static_cast<int>(index.size(2));
  p.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(D)));
  p.stick_breaking = weighting.stick_breaking, p.off_by_one = weighting.off_by_one;
  p.ahead = StepRecording::runs_ahead();
  constexpr int kFew = hsa_cuda::kMostPagesFew, kMany = hsa_cuda::kMostPages;
  const bool few = pages.k.size() <= kFew;
  if (pages.k_scale.empty()) {
    few ? launch<hsa_cuda::PageTable<kFew>>(p, pages) : launch<hsa_cuda::PageTable<kMany>>(p, pages);
  } else {
    few ? launch<hsa_cuda::Int8PageTable<kFew>>(p, pages) : launch<hsa_cuda::Int8PageTable<kMany>>(p, pages);
  }
  return o;
}

[[maybe_unused]] const bool registered = register_step_kernels([](StepKernels* table) {
  table->hsa_pages_supports = supports;
  table->hsa_pages = attend;
});

}  // namespace
}  // namespace cairn
