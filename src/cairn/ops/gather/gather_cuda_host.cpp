// Checks and stream of the gathering kernel.
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "cairn/core/error.h"
#include "cairn/ops/cuda/kernels.h"
#include "cairn/ops/cuda/launch.h"
#include "cairn/ops/gather/launch.h"

namespace cairn {
namespace {

constexpr int64_t kWord = 16;  // bytes

bool supports(const ChunkPages& pages, const at::Tensor& index) {
  if (!runs_kernels(index) || pages.k.empty() || index.numel() == 0) return false;
  for (size_t p = 0; p < pages.k.size(); ++p) {
    const at::Tensor &k = pages.k[p], &v = pages.v[p];
    const int64_t size = k.element_size();
    for (const at::Tensor* x : {&k, &v}) {
      if ((x->device() != index.device() && !(x->is_cpu() && x->is_pinned())) || x->scalar_type() != pages.k[0].scalar_type() ||
          x->strides() != k.strides())
        return false;
      if (reinterpret_cast<uintptr_t>(x->const_data_ptr()) % kWord != 0 || x->stride(0) * size % kWord != 0) return false;
    }
    // A chunk is one run of bytes.
    const int64_t numbers = k.size(2) * k.size(3) * k.size(4);
    if (numbers * size % kWord != 0 || k.stride(1) * size % kWord != 0 || !k.select(0, 0).select(0, 0).is_contiguous()) return false;
  }
  return true;
}

GatheredChunks gather(const ChunkPages& pages, const at::Tensor& index_in) {
  const c10::cuda::CUDAGuard guard(index_in.device());
  const at::Tensor index = index_in.contiguous();
  const at::Tensor& like = pages.k[0];
  const int64_t B = index.size(0), slots = index.numel() / B, S = like.size(2), G = like.size(3), D = like.size(4),
                size = like.element_size();
  const auto here = index.options().dtype(like.scalar_type());  // pages may lie in pinned host memory
  GatheredChunks out{at::empty({B, slots * S, G, D}, here), at::empty({B, slots * S, G, D}, here), at::empty_like(index)};
  GatherParams p = {};
  p.index = index.const_data_ptr<int64_t>();
  p.renumbered = out.index.mutable_data_ptr<int64_t>();
  p.k = out.k.mutable_data_ptr();
  p.v = out.v.mutable_data_ptr();
  p.slots = slots, p.batch = B, p.first_chunk = pages.first_chunk, p.words = S * G * D * size / kWord;
  p.first = true;
  int64_t begin = 0;
  const auto launch = [&] {
    p.end = begin;
    check_launch(launch_gather(p, current_stream()));
    p.first = false;
    p.begin = begin;
    p.page_count = 0;
  };
  for (size_t i = 0; i < pages.k.size(); ++i) {
    const at::Tensor &k = pages.k[i], &v = pages.v[i];
    if (k.size(1) == 0) continue;
    if (p.page_count == kMostGatherPages) launch();
    p.pages[p.page_count++] = {k.const_data_ptr(), v.const_data_ptr(),         begin,
                               k.size(1),          k.stride(0) * size / kWord, k.stride(1) * size / kWord};
    begin += k.size(1);
  }
  launch();
  return out;
}

[[maybe_unused]] const bool registered = register_cuda_kernels([](CudaKernels* table) {
  table->gather_supports = supports;
  table->gather_chunks = gather;
});

}  // namespace
}  // namespace cairn
