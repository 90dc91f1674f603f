#include "cairn/model/weights.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>

namespace cairn {

std::map<std::string, at::Tensor>& WeightCache::tensors(const Parameters& parameters, at::ScalarType compute) {
  const uint64_t version = parameters.flat()._version();
  if (version != version_) tensors_.clear();
  version_ = version;
  return tensors_[compute];
}

Weights::Weights(const Parameters& parameters, at::ScalarType compute, WeightCache* cache)
    : parameters_(parameters),
      compute_(compute),
      kept_(cache == nullptr || at::GradMode::is_enabled() ? nullptr : &cache->tensors(parameters, compute)) {}

at::Tensor Weights::matrix(const std::string& name) const {
  const at::Tensor& stored = parameters_[name];
  if (stored.scalar_type() == compute_) return stored;
  if (kept_ == nullptr) return stored.to(compute_);
  at::Tensor& kept = (*kept_)[name];
  if (!kept.defined()) kept = stored.detach().to(compute_);
  return kept;
}

at::Tensor Weights::joined(const std::string& prefix, const std::vector<std::string>& names, const std::string& suffix) const {
  const auto join = [&] {
    std::vector<at::Tensor> parts;
    for (const std::string& name : names) parts.push_back(parameters_[prefix + name + suffix]);
    return at::cat(parts).to(compute_);
  };
  if (kept_ == nullptr) return join();
  at::Tensor& kept = (*kept_)[prefix + names.front() + "+" + suffix];
  if (!kept.defined()) kept = join().detach();
  return kept;
}

}  // namespace cairn
