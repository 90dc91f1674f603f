#include "cairn/train/step.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <limits>

#include "cairn/core/error.h"
#include "cairn/core/random.h"

namespace cairn {
namespace {

constexpr uint64_t kNoiseStream = 0x6e6f697365;  // Gumbel noise: one key a run

}  // namespace

StepLosses step_losses(const Model& model, const Batch& batch, const Moment& moment, at::ScalarType compute, uint64_t noise_key,
                       const std::shared_ptr<World>& world) {
  const int64_t chunk = model.config().chunk;
  ForwardOptions options;
  options.alpha = moment.alpha;
  options.beta = moment.beta;
  options.top_k = moment.top_k;
  options.noise_key = moment.top_k >= moment.length / chunk ? 0 : noise_key;  // with all chunks there is no choice
  options.noise_row = batch.first;
  options.want_mass = moment.distillation_weight > 0;
  options.compute = compute;
  ForwardResult forward = model.forward(batch.tokens, options);

  StepLosses losses;
  const at::Tensor embedding = (*model.parameters())["embed.weight"].to(forward.hidden.scalar_type());
  losses.token = token_loss(forward.hidden, embedding, batch.target, batch.weight, *world);
  losses.total = losses.token.loss;
  losses.cross_entropy = losses.token.loss.detach();
  if (moment.route_weight > 0) {
    const at::Tensor route =
        route_loss(forward.trace, batch.source, batch.weight, batch.key, chunk, world, batch.rows.narrow(0, 0, batch.room));
    losses.total = losses.total + moment.route_weight * route;
    losses.route = route.detach();
  }
  if (moment.distillation_weight > 0) {
    const at::Tensor distillation = distillation_loss(forward.trace, chunk, *world);
    losses.total = losses.total + moment.distillation_weight * distillation;
    losses.distillation = distillation.detach();
  }
  losses.trace = std::move(forward.trace);
  return losses;
}

StepLosses step_gradients(const Model& model, const Batch& batch, const Moment& moment, const TrainConfig& config,
                          const std::shared_ptr<World>& world, GradientSum* sum) {
  const uint64_t key = config.train.gumbel ? stream_key({static_cast<uint64_t>(config.train.seed), kNoiseStream}) | 1 : 0;
  const at::ScalarType compute = config.train.precision == "bf16" ? at::kBFloat16 : at::kFloat;
  model.parameters()->zero_gradients();
  StepLosses losses = step_losses(model, batch, moment, compute, key, world);
  if (sum != nullptr) sum->begin();
  losses.total.backward();
  if (sum != nullptr) {
    sum->finish();
  } else {
    at::Tensor flat = model.parameters()->flat_gradient();
    world->all_reduce_sum(flat);
  }
  // Nobody goes back through them; what they hold of the pass goes now.
  losses.total = losses.total.detach();
  losses.trace.landmarks = losses.trace.landmarks.detach();
  for (RetrievalTrace& r : losses.trace.retrievals) {
    for (at::Tensor* const t : {&r.query, &r.score, &r.weight, &r.lse}) {
      if (t->defined()) *t = t->detach();
    }
  }
  return losses;
}

at::Tensor global_loss(const StepLosses& losses, World& world) {
  at::Tensor loss = losses.total.detach().clone();
  if (world.size() > 1) world.all_reduce_sum(loss);
  return loss;
}

Measurement measure(const StepLosses& losses, const Batch& batch, const std::vector<std::string>& task_names, const ModelConfig& model,
                    World& world) {
  const at::NoGradGuard no_grad;
  const at::Tensor& source = batch.source;
  const int64_t tasks = static_cast<int64_t>(task_names.size()), retrievals = static_cast<int64_t>(losses.trace.retrievals.size());
  const auto wide = [](const at::Tensor& t) { return t.to(at::kDouble); };

  // Per task: answer rows, right ones, their loss. Text has no answers: there every row counts.
  at::Tensor rows = wide(batch.is_answer);
  for (int64_t i = 0; i < tasks; ++i) {
    if (task_names[i] == "text") rows = rows.maximum(wide(batch.task == i).unsqueeze(1));
  }
  const at::Tensor per_sequence =
      at::stack({rows.sum(1), (rows * wide(losses.token.correct)).sum(1), (rows * wide(losses.token.per_token)).sum(1)}, 1);  // [B,3]
  const at::Tensor by_task = at::zeros({tasks, 3}, per_sequence.options()).index_add_(0, batch.task, per_sequence);

  // Recall over answer rows; copies (weight 1) are no answers where answers weigh more.
  const at::Tensor asked = batch.is_answer.logical_and(batch.weight >= batch.weight.max().clamp_max(1.0 + 1e-6));
  const at::Tensor position = at::arange(source.size(1), source.options()).view({1, -1, 1});
  const at::Tensor seen = (source >= 0).logical_and(position >= (source + 1) * model.chunk).any(2).logical_and(asked);
  const at::Tensor count = wide(seen.sum());
  const at::Tensor recall = wide(source_recall(losses.trace, source, asked, model.chunk, model.top_k)) * count;

  const auto scalar = [&](const at::Tensor& t) { return t.defined() ? wide(t).view({1}) : at::zeros({1}, per_sequence.options()); };
  at::Tensor all = at::cat({scalar(losses.total.detach()), scalar(losses.cross_entropy), scalar(losses.route), scalar(losses.distillation),
                            count.view({1}), recall.flatten(), by_task.flatten()});
  world.all_reduce_sum(all);
  const at::Tensor host = all.cpu();
  const double* v = host.data_ptr<double>();

  Measurement m;
  m.loss = v[0];
  m.cross_entropy = v[1];
  m.route = losses.route.defined() ? v[2] : std::numeric_limits<double>::quiet_NaN();
  m.distillation = losses.distillation.defined() ? v[3] : std::numeric_limits<double>::quiet_NaN();
  for (int64_t i = 0; i < retrievals && v[4] > 0; ++i) m.recall.push_back({v[5 + 2 * i] / v[4], v[6 + 2 * i] / v[4]});
  const double* task = v + 5 + 2 * retrievals;
  for (int64_t i = 0; i < tasks; ++i, task += 3) {
    if (task[0] == 0) continue;
    m.skill[task_names[i]] = task[1] / task[0];
    m.loss_by_task[task_names[i]] = task[2] / task[0];
  }
  return m;
}

SkillPoint Measurement::point() const {
  SkillPoint point;
  point.accuracy = skill;
  point.recall = recall.empty() ? std::numeric_limits<double>::quiet_NaN() : 1.0;
  for (const auto& r : recall) point.recall = std::min(point.recall, r[0]);
  return point;
}

}  // namespace cairn
