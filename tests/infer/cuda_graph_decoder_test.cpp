// Decoding as recorded work gives what decoding step by step gives, across chunk ends, and leaves the same state.
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
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
  int64_t few_steps = 0, few_apart = 0;  // bf16 with few chosen chunks
  for (uint64_t seed = 0; seed < 12; ++seed) {
    Random random(seed, 44);
    ModelConfig config = decoding_config(random);
    if (seed % 2 == 0)
      config.top_k = 100;  // all: no near-tie of the selection, which may fall either way where two kernels round differently
    SCOPED_TRACE(config.to_json());
    const auto model = model_on_gpu(config, seed);
    const Reader exact(model, {});
    for (const auto compute : {at::kFloat, at::kBFloat16}) {
      ReaderOptions options;
      options.compute = compute;
      const bool eight_bit = seed % 3 == 2;  // the truth below has a memory of fp32, which is another one
      options.eight_bit = {eight_bit, eight_bit};
      const Reader reader(model, options);
      const int64_t batch = 1 + random.below(3), length = 150 + random.below(60);
      const auto longs = at::TensorOptions(at::kLong).device(at::kCUDA);
      const at::Tensor text = at::randint(1, config.vocab, {batch, length}, longs),
                       question = at::randint(1, config.vocab, {batch, 5}, longs);
      const auto state = reader.new_reader_state(batch), truth = exact.new_reader_state(batch);
      reader.read(*state, text);
      reader.advance_last(*state, question, 1);
      exact.read(*truth, text);
      exact.advance_last(*truth, question, 1);
      if (!GraphDecoder::supports(reader, *state)) continue;
      ++recorded;
      const auto single = state->fork();
      GraphDecoder graph(reader, *state);
      double ours = 0, naive = 0, largest = 0;  // errors of the recorded and of the single steps
      const auto compare = [&](const at::Tensor& got, const at::Tensor& plain, const at::Tensor& want) {
        largest = std::max(largest, want.abs().max().item<double>());
        if (compute == at::kFloat) {
          EXPECT_LE(worst(got, plain), eight_bit ? largest / 20 : 1e-4);  // of a chunk completed here 8 bits may fall either way
        } else if (config.top_k == 100 && eight_bit) {
          EXPECT_LE(worst(got, plain), largest / 20);
        } else if (config.top_k == 100) {
          ours = std::max(ours, worst(got, want));
          naive = std::max(naive, worst(plain, want));
        } else {
          ++few_steps;
          few_apart += worst(got, plain) > largest / 20 ? 1 : 0;
        }
      };
      for (int step = 0; step < 70; ++step) {
        const at::Tensor token = at::randint(1, config.vocab, {batch, 1}, longs), got = graph.advance(token);
        compare(got, reader.advance_last(*single, token, 1), exact.advance_last(*truth, token, 1));
        EXPECT_TRUE(at::equal(graph.best().view({-1}), got.select(1, 0).argmax(-1)));
      }
      const auto behind = graph.finish();
      EXPECT_EQ(behind->end, single->end);
      EXPECT_EQ(behind->memory.chunks(), single->memory.chunks());
      const at::Tensor more = at::randint(1, config.vocab, {batch, 20}, longs);
      compare(reader.advance_last(*behind, more, 20), reader.advance_last(*single, more, 20), exact.advance_last(*truth, more, 20));
      EXPECT_LE(ours, 2 * naive + largest / 512);
      // The state it began from did not move.
      EXPECT_EQ(state->end, length + 5);
    }
  }
  EXPECT_GE(recorded, 8);
  EXPECT_GE(few_steps, 70);
  EXPECT_LE(few_apart, few_steps / 10) << "of " << few_steps;
}

// The same kernels in both: equal to the last bit, whether a recording sees chunks that are completed later or is made anew every few
// tokens, with the state taken out and put back in between.
TEST_F(CudaGraphDecoder, OneRecordingGivesWhatFreshOnesGive) {
  const at::NoGradGuard no_gradient;
  int compared = 0;
  for (uint64_t seed = 20; seed < 30; ++seed) {
    Random random(seed, 46);
    const ModelConfig config = decoding_config(random);
    SCOPED_TRACE(config.to_json());
    ReaderOptions options;
    options.compute = at::kBFloat16;
    options.eight_bit = {seed % 4 == 1 || seed % 4 == 2, seed % 4 >= 2};
    const Reader reader(model_on_gpu(config, seed), options);
    const int64_t batch = 1 + random.below(3);
    const auto longs = at::TensorOptions(at::kLong).device(at::kCUDA);
    auto state = reader.new_reader_state(batch);
    reader.read(*state, at::randint(1, config.vocab, {batch, 150 + random.below(60)}, longs));
    reader.advance_last(*state, at::randint(1, config.vocab, {batch, 5}, longs), 1);
    if (!GraphDecoder::supports(reader, *state)) continue;
    GraphDecoder one(reader, *state);
    for (int part = 0; part < 12; ++part) {
      GraphDecoder fresh(reader, *state);
      for (int64_t i = 0, n = 2 + random.below(14); i < n; ++i) {
        const at::Tensor token = at::randint(1, config.vocab, {batch, 1}, longs);
        ASSERT_TRUE(at::equal(one.advance(token), fresh.advance(token))) << "part " << part << ", step " << i;
        ++compared;
      }
      state = fresh.finish();
    }
  }
  EXPECT_GE(compared, 300);
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
