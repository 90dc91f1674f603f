// The memory attention of a memory layer: score, select, weigh, attend (docs/algorithm.md section 1, steps 1 to 5).
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/split_with_sizes.h>
#include <ATen/ops/zeros.h>

#include "cairn/core/error.h"
#include "cairn/model/blocks.h"
#include "cairn/ops/hsa/exact_mass.h"
#include "cairn/ops/hsa/hsa.h"
#include "cairn/ops/hsa/pages.h"
#include "cairn/ops/norm/norm.h"
#include "cairn/ops/norm/parts.h"
#include "cairn/ops/projection/projection.h"

namespace cairn {
namespace {

Visibility visibility_of(const ModelConfig& c, int64_t first_position) {
  Visibility v;
  v.chunk = c.chunk;
  v.first_position = first_position;
  v.exclude_window = c.exclude_window ? c.window : 0;
  return v;
}

// retrieval_stride = chunk (DRT): every row of chunk c uses the retrieval of the last token of chunk c-1, at position cS-1. Rows are made
// for the chunk ends only; in units of chunks row c stands at c-1 and sees i iff i+1 <= c-1, so the same visibility rule serves with chunk
// = 1.
Retrieved retrieve_per_chunk(const at::Tensor& rq, const ModelConfig& c, int64_t top_k, MemoryContext& context, RetrievalTrace* trace,
                             WindowCache* query_cache) {
  const int64_t B = rq.size(0), L = rq.size(1), S = c.chunk, first = context.first_position;
  // Ends inside this segment: positions p with (p + 1) % S == 0.
  const int64_t first_end = first + (S - 1 - first % S), first_chunk = first / S, last_chunk = (first + std::max<int64_t>(L, 1) - 1) / S;
  const int64_t ends = first_end < first + L ? (first + L - 1 - first_end) / S + 1 : 0;
  // Row j of `rows` is the query that chunk first_chunk + j uses: the last end before the segment (from the cache, or zeros), then the ends
  // inside.
  at::Tensor before = at::zeros({B, 1, rq.size(2), rq.size(3)}, rq.options());
  const bool known = query_cache != nullptr && query_cache->k.defined();
  if (known) before = query_cache->k;
  at::Tensor rows = before;
  if (ends > 0) {
    const at::Tensor inside = rq.slice(1, first_end - first, L, S);
    rows = at::cat({before, inside}, 1);
    if (query_cache != nullptr) query_cache->k = inside.narrow(1, ends - 1, 1).clone();
  }
  rows = rows.narrow(1, 0, last_chunk - first_chunk + 1);
  Visibility per_chunk;
  per_chunk.chunk = 1;
  per_chunk.first_position = first_chunk - 1;
  per_chunk.exclude_window = c.exclude_window ? (c.window + S - 1) / S : 0;
  Retrieved found = context.memory->retrieve(rows, top_k, per_chunk, trace);
  if (trace != nullptr) trace->query = rows;
  const at::Tensor row_of =
      at::arange(first, first + L, at::TensorOptions().dtype(at::kLong).device(rq.device())).div(S, "floor") - first_chunk;
  found.selection.index = found.selection.index.index_select(1, row_of);
  found.selection.score = found.selection.score.index_select(1, row_of);
  found.score = found.score.index_select(1, row_of);
  if (trace != nullptr) {
    trace->query = trace->query.index_select(1, row_of);
    if (trace->score.defined()) trace->score = trace->score.index_select(1, row_of);
  }
  return found;
}

}  // namespace

at::Tensor memory_attention_block(Residual& x, const Weights& weights, const std::string& prefix, const UpperLayer& layer,
                                  const ModelConfig& c, const ForwardOptions& options, MemoryContext& context, WindowCache* query_cache) {
  const int64_t B = x.x.size(0), L = x.x.size(1), H = c.memory_heads, Q = c.retrieval_heads;
  // Queries for landmarks and for keys from one product.
  const at::Tensor joined = x.norm_linear(
      weights.vector(prefix + ".norm.weight"),
      layer.retrieval ? weights.joined(prefix, {".retrieval", ".q"}, "_proj.weight") : weights.matrix(prefix + ".q_proj.weight"), {});
  const std::vector<at::Tensor> part =
      layer.retrieval ? joined.split_with_sizes({c.retrieval_dim, H * c.head_dim}, -1) : std::vector<at::Tensor>{joined};
  // Training: both norms at once, whose gradients become one tensor.
  std::vector<at::Tensor> normed;
  if (layer.retrieval && c.landmark_norm && Q == 1 && at::GradMode::is_enabled()) {
    normed = norm_parts(joined, {weights.vector(prefix + ".retrieval_norm.weight"), weights.vector(prefix + ".q_norm.weight")}, {1, H});
  }
  RetrievalTrace trace;
  if (layer.retrieval) {
    at::Tensor rq = normed.empty() ? part.front() : normed[0];
    if (c.landmark_norm && normed.empty()) rq = head_rms_norm(rq, weights.vector(prefix + ".retrieval_norm.weight"), Q);
    rq = rq.view({B, L, Q, c.retrieval_dim / Q});
    trace.query = rq;
    context.latest = c.retrieval_stride == "chunk"
                         ? retrieve_per_chunk(rq, c, options.top_k, context, &trace, query_cache)
                         : context.memory->retrieve(rq, options.top_k, visibility_of(c, context.first_position), &trace);
  }
  const Retrieved& found = context.latest;
  const at::Tensor raw = part.back().view({B, L, H, c.head_dim}), &gain = weights.vector(prefix + ".q_norm.weight");
  const bool one_row = L == 1 && options.alpha == 0 && !c.rank_decay && context.trace == nullptr && !at::GradMode::is_enabled();
  const ChunkWeighting weighting = {c.weights != "softmax", c.off_by_one};
  const ChunkPages* pages = one_row ? context.memory->pages() : nullptr;
  if (pages != nullptr && hsa_pages_supports(raw, gain, *pages, found.selection.index, found.score)) {
    return hsa_pages(raw, gain, *pages, found.selection.index, found.score, weighting).flatten(2);
  }
  at::Tensor k, v, index;
  context.memory->gather(found.selection.index, &k, &v, &index);
  if (one_row && pages == nullptr && k.size(1) > 0) {  // handed round by several processes: the same numbers by the same kernel
    const auto page = [&](const at::Tensor& x) { return x.view({B, x.size(1) / c.chunk, c.chunk, x.size(2), x.size(3)}); };
    const ChunkPages gathered = {{page(k)}, {page(v)}, 0};
    if (hsa_pages_supports(raw, gain, gathered, index, found.score))
      return hsa_pages(raw, gain, gathered, index, found.score, weighting).flatten(2);
  }
  const at::Tensor used = found.selection.index >= 0;
  const at::Tensor q = normed.empty() ? norm_rotate(raw, gain, {}) : normed[1];
  k = k.to(q.scalar_type());
  v = v.to(q.scalar_type());

  at::Tensor o, weight, own_lse;
  if (options.alpha > 0) {
    const ExactMass mass = hsa_exact_mass(q, k, v, index, found.score, options.alpha, c.chunk, c.off_by_one);
    o = mass.o, weight = mass.weight, own_lse = mass.lse;
  } else {
    at::Tensor s = found.score;
    if (c.rank_decay) s = s + weights.vector(prefix + ".rank_decay") * at::arange(s.size(3), s.options());
    weight = c.weights == "softmax" ? softmax_weights(s, used) : stick_breaking_weights(s, used);
  }
  if (layer.retrieval && context.trace != nullptr) {
    trace.selection = found.selection;
    trace.weight = weight.detach();
    const int64_t C = k.size(1) / c.chunk;
    // While training, a selection of every chunk that a row sees has just given its masses. (Reading joins masses of segments by chunk.)
    const bool training = at::GradMode::is_enabled() && trace.score.defined(),
               all_selected = index.size(3) == C && !c.exclude_window && c.retrieval_stride != "chunk";
    if (options.want_mass && training && all_selected && own_lse.defined()) {
      trace.lse = own_lse;
      trace.lse_order = MassOrder::kNearestFirst;
    } else if (options.want_mass) {
      const at::NoGradGuard no_gradient;
      const at::Tensor all = at::arange(C - 1, -1, -1, index.options()).expand({B, L, 1, C}).contiguous();
      const at::Tensor none = at::zeros({B, L, 1, C}, found.score.options().requires_grad(false));
      trace.lse = hsa(q.detach(), k.detach(), v.detach(), all, none, c.chunk, false, true).lse.flip(-1);
    }
    context.trace->retrievals.push_back(trace);
  }
  return (o.defined() ? o : hsa(q, k, v, index, weight, c.chunk, c.off_by_one).o).flatten(2);
}

}  // namespace cairn
