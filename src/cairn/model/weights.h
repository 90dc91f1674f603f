// The weights of one forward pass in the compute dtype. While gradients are wanted every access casts (autograd follows it); otherwise
// casts and joined matrices are kept in a WeightCache until the flat buffer changes.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>
#include <vector>

#include "cairn/model/parameters.h"

namespace cairn {

class WeightCache {
 public:
  // What is kept for this dtype; empties itself when the parameters were written to. Every dtype has its own tensors, which stay where they
  // are: recorded work (CUDA graphs) reads them at their addresses, also while somebody else computes in another dtype.
  std::map<std::string, at::Tensor>& tensors(const Parameters& parameters, at::ScalarType compute);

 private:
  std::map<at::ScalarType, std::map<std::string, at::Tensor>> tensors_;
  uint64_t version_ = 0;
};

class Weights {
 public:
  // cache null: none is used.
  Weights(const Parameters& parameters, at::ScalarType compute, WeightCache* cache);

  at::Tensor matrix(const std::string& name) const;  // in the compute dtype
  // Rows of several matrices (or biases) one after another, `prefix` + each + `suffix`: one product instead of three.
  at::Tensor joined(const std::string& prefix, const std::vector<std::string>& names, const std::string& suffix) const;
  const at::Tensor& vector(const std::string& name) const { return parameters_[name]; }  // as stored (gains)
  bool contains(const std::string& name) const { return parameters_.contains(name); }
  at::ScalarType compute() const { return compute_; }

 private:
  const Parameters& parameters_;
  at::ScalarType compute_;
  std::map<std::string, at::Tensor>* kept_;  // null: nothing is kept
};

}  // namespace cairn
