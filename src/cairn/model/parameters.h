// The model's parameters: named leaf tensors that are views of one flat buffer, gradients likewise, so that clipping, AdamW and all-reduce
// each work on one tensor. Matrices (weight decay) come first, vectors (no decay) after them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "cairn/core/files.h"
#include "cairn/model/config.h"

namespace cairn {

struct ParameterInfo {
  std::string name;  // as in a checkpoint: "lower.0.attention.q_proj.weight"
  std::vector<int64_t> shape;
  int64_t offset = 0;  // numbers from the start of the flat buffer
  bool decay = false;  // two dimensions
};

class Parameters {
 public:
  // Allocates (uninitialised) in `dtype` on `device`.
  Parameters(const ModelConfig& config, at::Device device, at::ScalarType dtype = at::kFloat);
  static std::vector<ParameterInfo> layout(const ModelConfig& config);

  // N(0, .02), attention and MLP outputs N(0, .02 / sqrt(2 * layers)), norms 1, biases 0, cls N(0, .02); a function of the seed only.
  void initialize(uint64_t seed);

  const at::Tensor& operator[](const std::string& name) const;  // a bug if absent
  bool contains(const std::string& name) const { return by_name_.count(name) != 0; }
  const std::vector<ParameterInfo>& infos() const { return infos_; }
  const at::Tensor& flat() const { return flat_; }
  int64_t decay_count() const { return decay_count_; }  // the first so many numbers are subject to weight decay
  int64_t count() const { return flat_.numel(); }

  void enable_gradients();  // makes the flat gradient buffer, zeroed, and the leaves require gradients
  const at::Tensor& flat_gradient() const { return flat_gradient_; }
  void zero_gradients();

 private:
  std::vector<ParameterInfo> infos_;
  std::map<std::string, at::Tensor> by_name_;
  at::Tensor flat_, flat_gradient_;
  int64_t decay_count_ = 0;
};

// model.safetensors + config.json + tokenizer.model in one folder ("a checkpoint"; docs/formats.md).
void save_weights(const fs::path& file, const Parameters& parameters, at::ScalarType dtype,
                  const std::map<std::string, std::string>& metadata = {});
// UserError for missing, surplus or wrongly shaped tensors.
void load_weights(const fs::path& file, Parameters& parameters);

}  // namespace cairn
