#include "cairn/ops/gather/gather.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include "cairn/core/error.h"
#include "cairn/ops/cuda/kernels.h"
#include "cairn/ops/gather/require.h"
#include "cairn/ops/quantize/rows.h"

namespace cairn {
namespace {

constexpr int64_t kMostSlots = 4096;  // beyond, chunks that several rows chose should be copied once

// 8-bit pages are gathered as two sets of pages: the numbers, and the scales as rows of one number.
ChunkPages numbers_of(const ChunkPages& pages) { return {pages.k, pages.v, pages.first_chunk}; }
ChunkPages scales_of(const ChunkPages& pages) {
  ChunkPages scales{{}, {}, pages.first_chunk};
  for (const at::Tensor& x : pages.k_scale) scales.k.push_back(x.unsqueeze(-1));
  for (const at::Tensor& x : pages.v_scale) scales.v.push_back(x.unsqueeze(-1));
  return scales;
}
GatheredChunks joined(const GatheredChunks& numbers, const GatheredChunks& scales, at::ScalarType type) {
  return {dequantize_rows(numbers.k, scales.k.squeeze(-1), type), dequantize_rows(numbers.v, scales.v.squeeze(-1), type), numbers.index};
}

}  // namespace

void require_pages(const char* op, const ChunkPages& pages) {
  CAIRN_CHECK(!pages.k.empty() && pages.v.size() == pages.k.size(),
              "{}: argument pages has {} of keys and {} of values; expected one each, at least 1", op, pages.k.size(), pages.v.size());
  const bool bytes = !pages.k_scale.empty() || !pages.v_scale.empty();
  CAIRN_CHECK(!bytes || (pages.k_scale.size() == pages.k.size() && pages.v_scale.size() == pages.k.size()),
              "{}: argument pages has scales of {} and {} of {} pages; expected one each, or none", op, pages.k_scale.size(),
              pages.v_scale.size(), pages.k.size());
  for (size_t i = 0; i < pages.k.size(); ++i) {
    require_dimensions(op, "pages.k", pages.k[i], 5, "[B,c,S,G,D]");
    require_sizes(op, "pages.v", pages.v[i], pages.k[i].sizes(), "the shape of the keys");
    require_type(op, "pages.v", pages.v[i], pages.k[i].scalar_type());
    require_device(op, "pages.v", pages.v[i], "pages.k", pages.k[i]);
    if (!bytes) continue;
    require_sizes(op, "pages.k_scale", pages.k_scale[i], pages.k[i].sizes().slice(0, 4), "[B,c,S,G] of the keys");
    require_sizes(op, "pages.v_scale", pages.v_scale[i], pages.v[i].sizes().slice(0, 4), "[B,c,S,G] of the values");
  }
}

bool gather_chunks_supports(const ChunkPages& pages, const at::Tensor& index) {
  const CudaKernels* own = index.is_cuda() ? cuda_kernels() : nullptr;
  if (own == nullptr || own->gather_supports == nullptr || index.numel() > kMostSlots) return false;
  return own->gather_supports(pages.k_scale.empty() ? pages : numbers_of(pages), index);
}

GatheredChunks gather_chunks(const ChunkPages& pages, const at::Tensor& index) {
  require_dimensions("gather_chunks", "index", index, 4, "[B,L,Gi,N]");
  require_type("gather_chunks", "index", index, at::kLong);
  require_pages("gather_chunks", pages);
  for (const at::Tensor& k : pages.k) {
    const at::IntArrayRef like = pages.k[0].sizes();
    require_sizes("gather_chunks", "pages.k", k, {index.size(0), k.size(1), like[2], like[3], like[4]},
                  "[B,c,S,G,D] with B of index, the rest of the first");
  }
  if (!gather_chunks_supports(pages, index)) return gather_chunks_reference(pages, index);
  const CudaKernels& own = *cuda_kernels();
  if (pages.k_scale.empty()) return own.gather_chunks(pages, index);
  const ChunkPages scales = scales_of(pages);  // of short chunks they are less than the kernel's 16 bytes
  return joined(own.gather_chunks(numbers_of(pages), index),
                own.gather_supports(scales, index) ? own.gather_chunks(scales, index) : gather_chunks_reference(scales, index), pages.type);
}

GatheredChunks gather_chunks_reference(const ChunkPages& pages, const at::Tensor& index) {
  if (!pages.k_scale.empty()) {
    return joined(gather_chunks_reference(numbers_of(pages), index), gather_chunks_reference(scales_of(pages), index), pages.type);
  }
  const at::Tensor& like = pages.k[0];
  const int64_t B = index.size(0), slots = index.numel() / std::max<int64_t>(B, 1), S = like.size(2), G = like.size(3), D = like.size(4);
  const at::Tensor chunk = index.reshape({B, slots}) - pages.first_chunk, row = at::arange(B, index.options()).unsqueeze(1);
  GatheredChunks out;
  out.k = at::zeros({B, slots, S, G, D}, like.options());
  out.v = at::zeros({B, slots, S, G, D}, like.options());
  int64_t begin = 0;
  for (size_t p = 0; p < pages.k.size(); ++p) {
    const int64_t count = pages.k[p].size(1);
    if (count == 0) continue;
    const at::Tensor here = chunk.ge(begin).logical_and(chunk.lt(begin + count)).logical_and(index.reshape({B, slots}).ge(0));
    const at::Tensor place = (chunk - begin).clamp(0, count - 1), kept = here.view({B, slots, 1, 1, 1});
    const auto take = [&](const at::Tensor& page, const at::Tensor& so_far) {
      return at::where(kept, page.index({row.expand({B, slots}), place}), so_far);
    };
    out.k = take(pages.k[p], out.k);
    out.v = take(pages.v[p], out.v);
    begin += count;
  }
  out.k = out.k.view({B, slots * S, G, D});
  out.v = out.v.view({B, slots * S, G, D});
  const at::Tensor slot = at::arange(slots, index.options()).expand({B, slots}).view(index.sizes());
  out.index = at::where(index.ge(0), slot, index);
  return out;
}

}  // namespace cairn
