#include "cairn/ops/hsa/pages.h"

#include <ATen/TensorOperators.h>

#include "cairn/core/error.h"
#include "cairn/ops/gather/require.h"
#include "cairn/ops/hsa/hsa.h"
#include "cairn/ops/rotary/rotary.h"
#include "cairn/ops/select/select.h"
#include "cairn/ops/step/kernels.h"

namespace cairn {

namespace {

void check(const at::Tensor& q, const at::Tensor& gain, const ChunkPages& pages, const at::Tensor& index, const at::Tensor& score) {
  constexpr const char* kOp = "hsa_pages";
  require_dimensions(kOp, "q", q, 4, "[B,1,H,D]");
  require_dimensions(kOp, "index", index, 4, "[B,1,1 or G,N]");
  const int64_t B = q.size(0), H = q.size(2), D = q.size(3);
  require_sizes(kOp, "q", q, {B, 1, H, D}, "one token a row, [B,1,H,D]");
  require_sizes(kOp, "gain", gain, {D}, "[D] of q");
  require_pages(kOp, pages);
  const int64_t S = pages.k[0].size(2), G = pages.k[0].size(3);
  for (const at::Tensor& k : pages.k)
    require_sizes(kOp, "pages.k", k, {B, k.size(1), S, G, D}, "[B,c,S,G,D] with B and D of q, S and G of the first");
  CAIRN_CHECK(G >= 1 && H % G == 0, "hsa_pages: argument q has shape {}; expected a multiple of the {} K/V heads in dimension 2",
              shape_text(q.sizes()), G);
  CAIRN_CHECK(index.size(2) == 1 || index.size(2) == G, "hsa_pages: argument index has shape {}; expected 1 or {} in dimension 2",
              shape_text(index.sizes()), G);
  require_sizes(kOp, "index", index, {B, 1, index.size(2), index.size(3)}, "[B,1,1 or G,N]");
  require_sizes(kOp, "score", score, index.sizes(), "the shape of index");
  require_type(kOp, "index", index, at::kLong);
  require_device(kOp, "gain", gain, "q", q);
  require_device(kOp, "index", index, "q", q);
  require_device(kOp, "score", score, "q", q);
}

}  // namespace

bool hsa_pages_supports(const at::Tensor& q, const at::Tensor& gain, const ChunkPages& pages, const at::Tensor& index,
                        const at::Tensor& score) {
  const StepKernels* own = q.is_cuda() ? step_kernels() : nullptr;
  return own != nullptr && own->hsa_pages_supports != nullptr && own->hsa_pages_supports(q, gain, pages, index, score);
}

at::Tensor hsa_pages(const at::Tensor& q, const at::Tensor& gain, const ChunkPages& pages, const at::Tensor& index, const at::Tensor& score,
                     const ChunkWeighting& weighting) {
  check(q, gain, pages, index, score);
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
