// One training step's losses and what is measured of it. Each process computes its share; gradients and measurements add up over processes.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cairn/dist/world.h"
#include "cairn/model/losses.h"
#include "cairn/model/model.h"
#include "cairn/train/batch.h"
#include "cairn/train/config.h"
#include "cairn/train/gradient_sum.h"
#include "cairn/train/schedule.h"

namespace cairn {

struct StepLosses {
  at::Tensor total;                               // scalar, differentiable: this process's share
  at::Tensor cross_entropy, route, distillation;  // detached shares; route and distillation undefined where their weight is 0
  TokenLoss token;
  Trace trace;
};

// noise_key 0: no Gumbel noise; the noise of a sample is a function of the key and its number in the run. compute: dtype of products.
StepLosses step_losses(const Model& model, const Batch& batch, const Moment& moment, at::ScalarType compute, uint64_t noise_key,
                       const std::shared_ptr<World>& world);

// The gradients of one optimizer step in model.parameters()->flat_gradient(): forward, backward, sum over processes. The noise depends on
// train.seed and the samples' numbers alone, so any number of processes gives the same gradients up to rounding. sum: sends them while the
// backward pass runs; null: one all-reduce behind it. The result is detached.
StepLosses step_gradients(const Model& model, const Batch& batch, const Moment& moment, const TrainConfig& config,
                          const std::shared_ptr<World>& world, GradientSum* sum = nullptr);

// The loss of the global batch, for the guard of the optimizer. Scalar, detached.
at::Tensor global_loss(const StepLosses& losses, World& world);

struct Measurement {
  double loss = 0, cross_entropy = 0, route = 0, distillation = 0;
  std::map<std::string, double> skill, loss_by_task;  // answer tokens; text: all tokens
  std::vector<std::array<double, 2>> recall;          // per retrieval: source chunk among the top_k, is the first
  SkillPoint point() const;                           // what the gates look at
};

// One transfer from the device and one all-reduce. top_k: the model's, so that the phases can be compared.
Measurement measure(const StepLosses& losses, const Batch& batch, const std::vector<std::string>& task_names, const ModelConfig& model,
                    World& world);

}  // namespace cairn
