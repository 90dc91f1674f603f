#include "cairn/model/weights.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/as_strided.h>
#include <ATen/ops/cat.h>
#include <torch/csrc/autograd/custom_function.h>

namespace cairn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Rows of several leaves [.., d] that lie one behind the other in the flat buffer, in the cast of it.
struct CastRows : torch::autograd::Function<CastRows> {
  static at::Tensor forward(AutogradContext* context, at::TensorList leaves, const at::Tensor& matrices) {
    context->saved_data["leaves"] = leaves.vec();
    int64_t rows = 0;
    for (const at::Tensor& leaf : leaves) rows += leaf.size(0);
    const int64_t d = leaves[0].size(1);
    return matrices.narrow(0, leaves[0].storage_offset(), rows * d).view({rows, d}).detach();
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const std::vector<at::Tensor> leaves = context->saved_data["leaves"].toTensorVector();
    if (grads[0].defined()) {
      const at::Tensor& first = leaves[0].grad();
      at::as_strided(first, grads[0].sizes(), {grads[0].size(1), 1}, first.storage_offset()).add_(grads[0]);
    }
    return variable_list(leaves.size() + 1);  // nothing more to add; the leaves' hooks are called all the same
  }
};

bool follow_each_other(const std::vector<at::Tensor>& leaves) {
  for (size_t i = 0; i < leaves.size(); ++i) {
    if (leaves[i].dim() != 2 || leaves[i].size(1) != leaves[0].size(1)) return false;
    if (i > 0 && leaves[i].storage_offset() != leaves[i - 1].storage_offset() + leaves[i - 1].numel()) return false;
  }
  return true;
}

}  // namespace

std::map<std::string, at::Tensor>& WeightCache::tensors(const Parameters& parameters, at::ScalarType compute) {
  const uint64_t version = parameters.flat()._version();
  if (version != version_) tensors_.clear();
  version_ = version;
  return tensors_[compute];
}

TrainingCast::TrainingCast(WeightCache& cache, const Parameters& parameters, at::ScalarType compute) : cache_(cache) {
  if (!at::GradMode::is_enabled() || !parameters.flat_gradient().defined() || parameters.flat().scalar_type() == compute) return;
  cache_.training_.matrices = parameters.flat().narrow(0, 0, parameters.decay_count()).to(compute);
}

TrainingCast::~TrainingCast() { cache_.training_ = {}; }

Weights::Weights(const Parameters& parameters, at::ScalarType compute, WeightCache* cache)
    : parameters_(parameters),
      compute_(compute),
      kept_(cache == nullptr || at::GradMode::is_enabled() ? nullptr : &cache->tensors(parameters, compute)),
      training_(cache != nullptr && at::GradMode::is_enabled() && cache->training_.matrices.defined() &&
                        cache->training_.matrices.scalar_type() == compute
                    ? &cache->training_
                    : nullptr) {}

at::Tensor Weights::part_of_cast(const std::string& key, const std::vector<at::Tensor>& leaves) const {
  at::Tensor& part = training_->handed_out[key];
  if (!part.defined()) part = CastRows::apply(at::TensorList(leaves), training_->matrices);
  return part;
}

at::Tensor Weights::matrix(const std::string& name) const {
  const at::Tensor& stored = parameters_[name];
  if (stored.scalar_type() == compute_) return stored;
  if (training_ != nullptr && stored.dim() == 2) return part_of_cast(name, {stored});
  if (kept_ == nullptr) return stored.to(compute_);
  at::Tensor& kept = (*kept_)[name];
  if (!kept.defined()) kept = stored.detach().to(compute_);
  return kept;
}

at::Tensor Weights::joined(const std::string& prefix, const std::vector<std::string>& names, const std::string& suffix) const {
  std::vector<at::Tensor> parts;
  for (const std::string& name : names) parts.push_back(parameters_[prefix + name + suffix]);
  if (training_ != nullptr && follow_each_other(parts)) return part_of_cast(prefix + names.front() + "+" + suffix, parts);
  if (training_ != nullptr && parts.front().dim() == 2) {
    for (size_t i = 0; i < parts.size(); ++i) parts[i] = matrix(prefix + names[i] + suffix);
    return at::cat(parts);
  }
  if (kept_ == nullptr) return at::cat(parts).to(compute_);
  at::Tensor& kept = (*kept_)[prefix + names.front() + "+" + suffix];
  if (!kept.defined()) kept = at::cat(parts).to(compute_).detach();
  return kept;
}

}  // namespace cairn
