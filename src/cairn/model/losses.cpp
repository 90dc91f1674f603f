#include "cairn/model/losses.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/index_put.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "cairn/core/error.h"
#include "cairn/ops/cross_entropy/cross_entropy.h"
#include "cairn/ops/distillation/distillation.h"
#include "cairn/ops/route/route.h"
#include "cairn/ops/select/select.h"

namespace cairn {
namespace {

constexpr double kHidden = -1e30;  // a score that no softmax sees; finite, so that rows without any candidate stay free of NaN

at::Tensor world_sum(const at::Tensor& value, World& world) {
  at::Tensor sum = value.detach().clone();
  if (world.size() > 1) world.all_reduce_sum(sum);
  return sum;
}

at::Tensor visible(int64_t L, int64_t C, int64_t chunk, at::Device device) {
  Visibility v;
  v.chunk = chunk;
  return visible_chunks(L, C, v, device);
}

// Source chunks of every row that count: visible, and the second not equal to the first. bool [B,L,2].
at::Tensor usable_sources(const at::Tensor& source, int64_t chunk) {
  const at::Tensor t = at::arange(source.size(1), source.options()).view({1, -1, 1});
  const at::Tensor ok = (source >= 0).logical_and(t >= (source + 1) * chunk);
  const at::Tensor first = ok.select(2, 0);
  const at::Tensor same = source.select(2, 0) == source.select(2, 1);
  return at::stack({first, ok.select(2, 1).logical_and(first.logical_and(same).logical_not())}, 2);
}

// bool [kKeyClasses, chunks of the global batch]: which chunks a key is looked up in. Row 0 (no key) is empty.
at::Tensor states_key(const at::Tensor& source, const at::Tensor& key, int64_t C, World& world) {
  const int64_t B = source.size(0);
  const at::Tensor sequence = at::arange(world.rank() * B, (world.rank() + 1) * B, source.options()).view({B, 1, 1});
  const at::Tensor used = (source >= 0).logical_and((key > 0).unsqueeze(2));
  at::Tensor place = (source.clamp(0, C - 1) + sequence * C).flatten();
  at::Tensor row = (key.unsqueeze(2) * used).flatten();  // what does not count goes to row 0
  if (world.size() > 1) place = world.all_gather(place), row = world.all_gather(row);
  at::Tensor table = at::zeros({kKeyClasses, world.size() * B * C}, source.options().dtype(at::kBool));
  table.index_put_({row, place}, at::full({}, true, table.options()));
  table.select(0, 0).fill_(false);
  return table;
}

}  // namespace

TokenLoss token_loss(const at::Tensor& hidden, const at::Tensor& embedding, const at::Tensor& target, const at::Tensor& weight,
                     World& world) {
  const CrossEntropy ce = linear_cross_entropy(hidden.flatten(0, 1), embedding, target.flatten());
  TokenLoss out;
  const at::Tensor total = world_sum(weight.sum(), world);
  out.loss = (ce.loss * weight.flatten()).sum() / total;
  out.per_token = ce.loss.detach().view(target.sizes());
  out.correct = ce.correct.view(target.sizes());
  return out;
}

at::Tensor distillation_loss(const Trace& trace, int64_t chunk, World& world) {
  at::Tensor total;
  for (const RetrievalTrace& r : trace.retrievals) {
    CAIRN_CHECK(r.lse.defined() && r.score.size(2) == 1, "distillation needs the chunk masses and one retrieval head");
    const int64_t B = r.score.size(0), rows = std::max<int64_t>(r.score.size(1) - chunk, 0);
    const at::Tensor sum = landmark_distillation(r.lse, r.score.select(2, 0), chunk, r.lse_order).sum();  // rows t < S are 0
    const at::Tensor count =
        world_sum(at::full({}, static_cast<double>(std::max<int64_t>(B * rows, 1)), sum.options().requires_grad(false)), world);
    total = total.defined() ? total + sum / count : sum / count;
  }
  CAIRN_CHECK(total.defined(), "distillation without a retrieval");
  return total;
}

at::Tensor route_loss(const Trace& trace, const at::Tensor& source, const at::Tensor& weight, const at::Tensor& key, int64_t chunk,
                      const std::shared_ptr<World>& world, const at::Tensor& rows) {
  const int64_t B = source.size(0), L = source.size(1), C = trace.landmarks.size(1);
  const at::TensorOptions options = trace.landmarks.options().dtype(weight.scalar_type()).requires_grad(false);
  if (C == 0) return at::zeros({}, options);
  CAIRN_CHECK(trace.landmarks.size(2) == 1, "the route loss needs one retrieval head, there are {}", trace.landmarks.size(2));
  // All chunks of the global batch are candidates; those of a row's own sequence only where visible.
  const at::Tensor all = gather_with_gradient(trace.landmarks.flatten(0, 1).flatten(1), world);  // [world * B * C, r]
  const RouteLayout layout = {L, C, chunk, world->rank() * B};
  at::Tensor stated, keys;
  if (key.defined()) stated = states_key(source, key, C, *world), keys = key.flatten();

  // Of [B L, ...] the rows that are asked for.
  at::Tensor number;
  // Instead of -1 some row each its own: gradients of 0 are added there, and all in one place would wait for each other.
  if (rows.defined()) number = at::where(rows >= 0, rows, at::arange(rows.size(0), rows.options()));
  const auto pick = [&](const at::Tensor& t) { return number.defined() && t.defined() ? t.index_select(0, number) : t; };
  at::Tensor ok = pick(usable_sources(source, chunk).flatten(0, 1));  // [n,2]
  if (rows.defined()) ok = ok.logical_and((rows >= 0).unsqueeze(1));
  const at::Tensor any = ok.any(1), none = any.logical_not();
  const at::Tensor used = rows.defined() ? rows.masked_fill(none, -1) : any;
  const at::Tensor v = pick(weight.flatten()) * any;
  const at::Tensor total_weight = world_sum(v.sum(), *world).clamp_min(1e-30);
  const at::Tensor safe = pick(source.clamp(0, C - 1).flatten(0, 1));
  keys = pick(keys);
  at::Tensor total;
  for (const RetrievalTrace& r : trace.retrievals) {
    const at::Tensor query = pick(r.query.flatten(0, 1).flatten(1));  // [n, r]
    const double scale = 1.0 / std::sqrt(static_cast<double>(query.size(1)));
    const at::Tensor rivals = route_log_sum(at::linear(query, all), scale, layout, stated, keys, used);
    const at::Tensor at_source = pick(r.score.flatten(0, 2)).gather(-1, safe).masked_fill(ok.logical_not(), kHidden);
    const at::Tensor row = (rivals - at::logsumexp(at_source, {-1})).masked_fill(none, 0);
    const at::Tensor loss = (row * v).sum() / total_weight;
    total = total.defined() ? total + loss : loss;
  }
  return total.defined() ? total : at::zeros({}, options);
}

at::Tensor source_recall(const Trace& trace, const at::Tensor& source, const at::Tensor& is_answer, int64_t chunk, int64_t top_k) {
  const int64_t L = source.size(1), C = trace.landmarks.size(1);
  at::Tensor out =
      at::zeros({static_cast<int64_t>(trace.retrievals.size()), 2}, at::TensorOptions().dtype(at::kFloat).device(source.device()));
  if (C == 0) return out;
  const at::Tensor ok = usable_sources(source, chunk);
  const at::Tensor rows = ok.any(2).logical_and(is_answer.to(at::kBool));
  const at::Tensor count = rows.sum().clamp_min(1);
  const at::Tensor vis = visible(L, C, chunk, source.device());
  int64_t i = 0;
  for (const RetrievalTrace& r : trace.retrievals) {
    const at::Tensor score = r.score.detach().select(2, 0).masked_fill(vis.logical_not(), kHidden);
    // How many chunks score above each source: no sorting of all scores for the few that are asked for.
    const at::Tensor at_source = score.gather(-1, source.clamp(0, C - 1));  // [B,L,2]
    const at::Tensor above = at::stack({(score > at_source.narrow(2, 0, 1)).sum(-1), (score > at_source.narrow(2, 1, 1)).sum(-1)}, 2);
    const auto hits = [&](int64_t k) { return (above < k).logical_and(ok).any(2).logical_and(rows).sum().to(at::kFloat) / count; };
    out.select(0, i).select(0, 0).copy_(hits(top_k));
    out.select(0, i).select(0, 1).copy_(hits(1));
    ++i;
  }
  return out;
}

}  // namespace cairn
