// The weights of one forward pass in the compute dtype. Without gradients casts and joined matrices are kept in a WeightCache until the
// flat buffer changes. With gradients every access casts (autograd follows it), or, inside a TrainingCast, is a view of one cast of all
// matrices.
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
  friend class TrainingCast;
  friend class Weights;
  std::map<at::ScalarType, std::map<std::string, at::Tensor>> tensors_;
  uint64_t version_ = 0;
  struct Training {
    at::Tensor matrices;                           // all of them, as they lie in the flat buffer; undefined: there is no TrainingCast
    std::map<std::string, at::Tensor> handed_out;  // what autograd knows of it: a matrix that is used twice has one gradient
  } training_;
};

// While it lives, matrices for passes with gradients are views of one cast of the flat buffer, and matrices that lie there one behind the
// other (queries, keys and values; gate and up) are joined by lying so. Their gradients are added to the flat gradient buffer as they come,
// in the compute dtype, joined: one kernel a matrix instead of three, the same numbers. Hooks behind the accumulation of a leaf's gradient
// (GradientSum) are called as autograd would; hooks in front of it see nothing. Does nothing without gradients, or where nothing is cast.
class TrainingCast {
 public:
  TrainingCast(WeightCache& cache, const Parameters& parameters, at::ScalarType compute);
  ~TrainingCast();
  TrainingCast(const TrainingCast&) = delete;
  TrainingCast& operator=(const TrainingCast&) = delete;

 private:
  WeightCache& cache_;
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
  at::Tensor part_of_cast(const std::string& key, const std::vector<at::Tensor>& leaves) const;

  std::map<std::string, at::Tensor>* kept_;  // null: nothing is kept
  WeightCache::Training* training_;          // null: there is no cast
};

}  // namespace cairn
