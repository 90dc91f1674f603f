// Weights in the compute dtype: kept while the parameters stay as they are, one set a dtype.
#include "cairn/model/weights.h"

#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "model/random_model.h"

namespace cairn {
namespace {

TEST(Weights, StayInPlaceWhileAnotherDtypeIsAskedFor) {
  const at::NoGradGuard no_gradient;
  ModelConfig config;
  config.d_model = 64, config.heads = 2, config.kv_heads = 2, config.head_dim = 32, config.vocab = 16;
  config.lower_layers = 1;
  const Parameters parameters(config, at::kCPU);
  WeightCache cache;
  const std::string prefix = "lower.0.attention";
  const auto joined = [&](at::ScalarType compute) {
    return Weights(parameters, compute, &cache).joined(prefix, {".q", ".k", ".v"}, "_proj.weight");
  };
  const void* const at_first = joined(at::kBFloat16).const_data_ptr();
  const void* const matrix = Weights(parameters, at::kBFloat16, &cache).matrix(prefix + ".o_proj.weight").const_data_ptr();
  joined(at::kDouble);
  joined(at::kFloat);
  EXPECT_EQ(joined(at::kBFloat16).const_data_ptr(), at_first);
  EXPECT_EQ(Weights(parameters, at::kBFloat16, &cache).matrix(prefix + ".o_proj.weight").const_data_ptr(), matrix);
  parameters.flat().fill_(0.5);  // written to: what was kept is not true any more
  EXPECT_EQ(joined(at::kBFloat16)[0][0].item<double>(), 0.5);
}

}  // namespace
}  // namespace cairn
