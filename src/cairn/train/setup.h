// What a run is built from: tokenizer, text, task generators, network, batches.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cairn/dist/world.h"
#include "cairn/model/model.h"
#include "cairn/text/token_source.h"
#include "cairn/train/batch.h"
#include "cairn/train/config.h"
#include "cairn/train/schedule.h"

namespace cairn {

// Several token sources one after the other.
std::shared_ptr<const TokenSource> join_sources(std::vector<std::shared_ptr<const TokenSource>> parts);

struct Materials {
  std::shared_ptr<const Tokenizer> tokenizer;
  std::shared_ptr<const TaskSet> tasks;
  std::shared_ptr<const TokenSource> validation;  // null: none
  std::vector<std::string> task_names;            // numbering of Batch::task
};

// UserError for files that are missing or do not fit (tokenizer against model.vocab, shards against the tokenizer).
Materials open_materials(const TrainConfig& config);

// The device if this program and machine have it. UserError otherwise. With several processes the GPU is local_gpu().
at::Device open_device(const std::string& name);

// A freshly initialised network with gradients.
std::shared_ptr<Model> make_model(const TrainConfig& config, at::Device device);

BatchPlan batch_plan(const TrainConfig& config, const Materials& materials, const World& world, at::Device device);

at::ScalarType compute_type(const TrainConfig& config);

// Mean loss of `tokens` held-out tokens in sequences of moment.length; all processes share the work.
double validation_loss(const Model& model, const TokenSource& source, const Moment& moment, at::ScalarType compute, int64_t tokens,
                       int64_t batch_tokens, at::Device device, World& world);

}  // namespace cairn
