// Weights in the compute dtype: kept while the parameters stay as they are, one set a dtype.
#include "cairn/model/weights.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

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

// Inside a TrainingCast: the same weights, the same gradients to the bit, hooks called once a leaf.
TEST(Weights, OneCastOfAllMatricesIsTheSame) {
  ModelConfig config;
  config.d_model = 64, config.heads = 2, config.kv_heads = 2, config.head_dim = 32, config.vocab = 16;
  config.lower_layers = 1;
  Parameters parameters(config, at::kCPU);
  parameters.initialize(5);
  parameters.enable_gradients();
  struct Count : torch::autograd::PostAccumulateGradHook {
    explicit Count(int* n) : calls(n) {}
    void operator()(const torch::autograd::Variable&) override { ++*calls; }
    int* calls;
  };
  int calls = 0;
  const std::string attention = "lower.0.attention";
  for (const char* name : {".q_proj.weight", ".k_proj.weight", ".v_proj.weight", ".o_proj.weight"})
    torch::autograd::impl::set_post_acc_grad_hooks(parameters[attention + name], std::make_unique<Count>(&calls));
  at::manual_seed(1);
  const at::Tensor x = at::randn({10, 64}, at::kBFloat16), c = at::randn({10, 192}, at::kBFloat16), e = at::randn({10, 64}, at::kBFloat16);
  WeightCache cache;
  const auto run = [&](bool cast) {
    parameters.flat_gradient().fill_(0.25);  // gradients are added to what is there
    std::optional<TrainingCast> inside;
    if (cast) inside.emplace(cache, parameters, at::kBFloat16);
    const Weights weights(parameters, at::kBFloat16, &cache);
    const at::Tensor qkv = weights.joined(attention, {".q", ".k", ".v"}, "_proj.weight"),
                     apart = weights.joined("lower.0.", {"mlp.up", "attention.o"}, "_proj.weight"),  // do not lie together
        o = weights.matrix(attention + ".o_proj.weight");
    EXPECT_EQ(qkv.sizes(), (std::vector<int64_t>{192, 64}));
    const at::Tensor y = at::linear(x, qkv), z = at::linear(at::linear(x, o), o), u = at::linear(x, apart);
    calls = 0;
    ((y * c).sum() + (z * e).sum() + u.sum()).backward();
    EXPECT_EQ(calls, 4) << cast;
    return std::vector<at::Tensor>{y.detach(), z.detach(), u.detach(), parameters.flat_gradient().clone()};
  };
  const auto plain = run(false), cast = run(true);
  for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(plain[i].equal(cast[i])) << i;
  // A matrix that is used twice: two gradients in bf16 are added before they are in fp32, so there the last bits may differ.
  const auto part = [&](const at::Tensor& flat, const std::string& name) {
    return flat.narrow(0, parameters[name].storage_offset(), parameters[name].numel());
  };
  for (const char* name : {".q_proj.weight", ".k_proj.weight", ".v_proj.weight"})
    EXPECT_TRUE(part(plain[3], attention + name).equal(part(cast[3], attention + name))) << name;
  EXPECT_TRUE(part(plain[3], "lower.0.mlp.up_proj.weight").equal(part(cast[3], "lower.0.mlp.up_proj.weight")));
  EXPECT_LT((plain[3] - cast[3]).abs().max().item<double>(), 1e-2 * plain[3].abs().max().item<double>());
  EXPECT_FALSE(plain[3].eq(0.25).all().item<bool>());
  // Outside nothing of it is left: every access casts.
  const Weights after(parameters, at::kBFloat16, &cache);
  const at::Tensor one = after.matrix(attention + ".o_proj.weight"), two = after.matrix(attention + ".o_proj.weight");
  EXPECT_NE(one.const_data_ptr(), two.const_data_ptr());
}

}  // namespace
}  // namespace cairn
