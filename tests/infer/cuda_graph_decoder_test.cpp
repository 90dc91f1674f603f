// Decoding as recorded work gives what decoding step by step gives, across chunk ends, and leaves the same state.
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/randint.h>
#include <gtest/gtest.h>

#include "cairn/infer/decoder.h"
#include "cairn/infer/graph_decoder.h"
#include "cairn/ops/cuda/kernels.h"
#include "infer/random_model.h"

namespace cairn {
namespace {

ModelConfig decoding_config(Random& random) {
  ModelConfig c = random_config(random);
  c.d_model = 64;
  c.head_dim = 32;
  c.heads = 2;
  c.kv_heads = random.chance(.5) ? 1 : 2;
  c.window = 9;
  c.chunk = 16;
  c.retrieval_dim = 64;
  c.memory_heads = 4;
  c.exclude_window = false;
  c.retrieval_stride = "token";
  c.validate();
  return c;
}

std::shared_ptr<const Model> model_on_gpu(const ModelConfig& config, uint64_t seed) {
  const at::NoGradGuard no_gradient;
  auto parameters = std::make_shared<Parameters>(config, at::kCUDA);
  parameters->flat().copy_(random_model(config, seed)->parameters()->flat());
  return std::make_shared<Model>(config, parameters);
}

double worst(const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<double>(); }

class CudaGraphDecoder : public testing::Test {
 protected:
  void SetUp() override {
    if (!at::hasCUDA() || cuda_kernels() == nullptr) GTEST_SKIP() << "no GPU here, or no kernels in this program";
  }
};

TEST_F(CudaGraphDecoder, GivesTheLogitsOfSingleSteps) {
  const at::NoGradGuard no_gradient;
  int recorded = 0;
  for (uint64_t seed = 0; seed < 12; ++seed) {
    Random random(seed, 44);
    const ModelConfig config = decoding_config(random);
    SCOPED_TRACE(config.to_json());
    const auto model = model_on_gpu(config, seed);
    for (const auto compute : {at::kFloat, at::kBFloat16}) {
      ReaderOptions options;
      options.compute = compute;
      const Reader reader(model, options);
      const int64_t batch = 1 + random.below(3), text = 150 + random.below(60);
      const auto longs = at::TensorOptions(at::kLong).device(at::kCUDA);
      const auto state = reader.new_reader_state(batch);
      reader.read(*state, at::randint(1, config.vocab, {batch, text}, longs));
      reader.advance_last(*state, at::randint(1, config.vocab, {batch, 5}, longs), 1);
      if (!GraphDecoder::supports(reader, *state)) continue;
      ++recorded;
      const auto single = state->fork();
      GraphDecoder graph(reader, *state);
      // Near-ties of the selection may fall either way where two kernels round differently; they do not here: both ways run the same ones.
      const double tolerance = compute == at::kFloat ? 1e-4 : 5e-2;
      for (int step = 0; step < 70; ++step) {
        const at::Tensor token = at::randint(1, config.vocab, {batch, 1}, longs);
        const at::Tensor expected = reader.advance_last(*single, token, 1);
        ASSERT_LE(worst(graph.advance(token), expected), tolerance) << "step " << step;
      }
      const auto behind = graph.finish();
      EXPECT_EQ(behind->end, single->end);
      EXPECT_EQ(behind->memory.chunks(), single->memory.chunks());
      const at::Tensor more = at::randint(1, config.vocab, {batch, 20}, longs);
      EXPECT_LE(worst(reader.advance_last(*behind, more, 20), reader.advance_last(*single, more, 20)), tolerance);
      // The state it began from did not move.
      EXPECT_EQ(state->end, text + 5);
    }
  }
  EXPECT_GE(recorded, 8);
}

TEST_F(CudaGraphDecoder, GenerateGivesTheSameTokens) {
  const at::NoGradGuard no_gradient;
  Random random(5, 45);
  const ModelConfig config = decoding_config(random);
  const Reader reader(model_on_gpu(config, 5), {});
  const auto longs = at::TensorOptions(at::kLong).device(at::kCUDA);
  const auto state = reader.new_reader_state(2);
  reader.read(*state, at::randint(1, config.vocab, {2, 200}, longs));
  const at::Tensor prompt = at::randint(1, config.vocab, {2, 4}, longs).cpu();
  const auto a = state->fork(), b = state->fork();
  const auto recorded = generate(reader, *a, prompt, 60);
  at::Tensor next = reader.advance_last(*b, prompt.cuda(), 1).select(1, 0).argmax(-1);
  for (int64_t i = 0; i < 60; ++i) {
    for (int64_t row = 0; row < 2; ++row) EXPECT_EQ(recorded[row][i], next[row].item<int64_t>()) << "token " << i;
    if (i + 1 < 60) next = reader.advance_last(*b, next.unsqueeze(1), 1).select(1, 0).argmax(-1);
  }
  EXPECT_EQ(a->end, b->end);
}

}  // namespace
}  // namespace cairn
