#include "cairn/ops/hsa/pages.h"

#include <ATen/TensorOperators.h>

#include "cairn/core/error.h"
#include "cairn/ops/hsa/hsa.h"
#include "cairn/ops/rotary/rotary.h"
#include "cairn/ops/select/select.h"
#include "cairn/ops/step/kernels.h"

namespace cairn {

bool hsa_pages_supports(const at::Tensor& q, const at::Tensor& gain, const ChunkPages& pages, const at::Tensor& index,
                        const at::Tensor& score) {
  const StepKernels* own = q.is_cuda() ? step_kernels() : nullptr;
  return own != nullptr && own->hsa_pages_supports != nullptr && own->hsa_pages_supports(q, gain, pages, index, score);
}

at::Tensor hsa_pages(const at::Tensor& q, const at::Tensor& gain, const ChunkPages& pages, const at::Tensor& index, const at::Tensor& score,
                     const ChunkWeighting& weighting) {
  CAIRN_CHECK(q.dim() == 4 && q.size(1) == 1 && index.dim() == 4 && index.sizes() == score.sizes() && index.size(0) == q.size(0),
              "hsa_pages: q of {} dimensions, index of {} rows", q.dim(), index.size(0));
  return hsa_pages_supports(q, gain, pages, index, score) ? step_kernels()->hsa_pages(q, gain, pages, index, score, weighting)
                                                          : hsa_pages_reference(q, gain, pages, index, score, weighting);
}

at::Tensor hsa_pages_reference(const at::Tensor& q, const at::Tensor& gain, const ChunkPages& pages, const at::Tensor& index,
                               const at::Tensor& score, const ChunkWeighting& weighting) {
  const at::Tensor used = index >= 0;
  const at::Tensor weight = weighting.stick_breaking ? stick_breaking_weights(score, used) : softmax_weights(score, used);
  const GatheredChunks gathered = gather_chunks_reference(pages, index);
  return hsa(norm_rotate(q, gain, {}), gathered.k.to(q.scalar_type()), gathered.v.to(q.scalar_type()), gathered.index, weight,
             pages.k[0].size(2), weighting.off_by_one)
      .o;
}

}  // namespace cairn
