// Asking with chunks switched off, and with the masses of all chunks, against plain ways of computing the same.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "cairn/infer/memory_access.h"
#include "infer/random_model.h"

namespace cairn {
namespace {

// The choice by sorting all chunks of a row, those of `excluded` left out. Everything in one tensor.
class SortingAccess final : public MemoryAccess {
 public:
  SortingAccess(ChunkEncoding encoding, std::vector<std::vector<int64_t>> excluded)
      : encoding_(std::move(encoding)), excluded_(std::move(excluded)) {}

  Retrieved retrieve(const at::Tensor& rq, int64_t top_k, const Visibility& visibility, RetrievalTrace*) override {
    const at::Tensor score = landmark_scores(rq, encoding_.landmarks);
    const int64_t B = score.size(0), L = score.size(1), Q = score.size(2), C = score.size(3), n = std::min(top_k, C);
    const at::Tensor seen = visible_chunks(L, C, visibility, at::kCPU);
    Retrieved found;
    found.selection.index = at::full({B, L, Q, n}, -1, at::kLong);
    found.selection.score = at::full({B, L, Q, n}, 0, at::kFloat);
    for (int64_t b = 0; b < B; ++b) {
      for (int64_t t = 0; t < L; ++t) {
        for (int64_t q = 0; q < Q; ++q) {
          std::vector<std::pair<float, int64_t>> all;
          for (int64_t i = 0; i < C; ++i) {
            const auto& off = excluded_[b];
            if (seen[t][i].item<bool>() && std::find(off.begin(), off.end(), i) == off.end()) {
              all.emplace_back(score[b][t][q][i].item<float>(), i);
            }
          }
          std::sort(all.rbegin(), all.rend());  // equal scores: higher number first
          all.resize(std::min<size_t>(all.size(), n));
          std::sort(all.begin(), all.end(), [](const auto& x, const auto& y) { return x.second > y.second; });
          for (size_t k = 0; k < all.size(); ++k) {
            found.selection.index[b][t][q][static_cast<int64_t>(k)] = all[k].second;
            found.selection.score[b][t][q][static_cast<int64_t>(k)] = all[k].first;
          }
        }
      }
    }
    found.score = found.selection.score;
    return found;
  }

  void gather(const at::Tensor& index, at::Tensor* k, at::Tensor* v, at::Tensor* local_index) override {
    *k = encoding_.k, *v = encoding_.v, *local_index = index;
  }

 private:
  ChunkEncoding encoding_;
  std::vector<std::vector<int64_t>> excluded_;
};

at::Tensor reference_logits(const Model& model, const at::Tensor& tokens, const std::vector<std::vector<int64_t>>& excluded) {
  const at::NoGradGuard no_gradient;
  const ModelConfig& c = model.config();
  const at::Tensor x = model.lower(model.embed(tokens), 0, nullptr, at::kFloat);
  SortingAccess access(model.encode_chunks(x.narrow(1, 0, x.size(1) / c.chunk * c.chunk), at::kFloat), excluded);
  ForwardOptions options;
  options.alpha = c.alpha, options.beta = c.beta, options.top_k = c.top_k;
  return model.logits(model.upper(x, 0, &access, nullptr, options, nullptr));
}

TEST(Ask, AChunkSwitchedOffIsAChunkThatTheMaskHides) {
  int differed = 0;
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    Random random(seed, 77);
    const ModelConfig config = random_config(random);
    const auto model = random_model(config, seed);
    const Reader reader(model);
    const int64_t length = 60, tail = 9;
    const at::Tensor tokens = random_tokens(random, 2, length, config.vocab);
    const auto state = reader.new_reader_state(2);
    reader.read(*state, tokens.narrow(1, 0, length - tail));
    AskOptions ask;
    const int64_t chunks = length / config.chunk;
    ask.excluded = {{random.below(chunks), random.below(chunks)}, {random.below(chunks)}};
    const at::Tensor asked = reader.advance_last(*state->fork(), tokens.narrow(1, length - tail, tail), tail, nullptr, ask);
    const at::Tensor plain = reader.advance(*state->fork(), tokens.narrow(1, length - tail, tail));
    EXPECT_LT(relative_rms(asked, reference_logits(*model, tokens, ask.excluded).narrow(1, length - tail, tail)), 1e-4)
        << seed << " " << describe(config);
    EXPECT_LT(relative_rms(plain, reference_logits(*model, tokens, {{}, {}}).narrow(1, length - tail, tail)), 1e-4) << seed;
    differed += relative_rms(asked, plain) > 1e-3;
  }
  EXPECT_GT(differed, 3) << "switching chunks off must be seen somewhere";
}

TEST(Ask, MassesAreThoseOfOneForwardPass) {
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    Random random(seed, 78);
    const ModelConfig config = random_config(random);
    const auto model = random_model(config, seed);
    ReaderOptions options;
    options.segment = 16;  // asked in blocks, so that the memory grows between them
    const Reader reader(model, options);
    const int64_t length = 90, tail = 20;
    const at::Tensor tokens = random_tokens(random, 1, length, config.vocab);
    const auto state = reader.new_reader_state(1);
    reader.read(*state, tokens.narrow(1, 0, length - tail));
    AskOptions ask;
    ask.want_mass = true;
    Trace trace, plain;
    const at::Tensor logits = reader.advance_last(*state->fork(), tokens.narrow(1, length - tail, tail), tail, &trace, ask);
    EXPECT_LT(relative_rms(logits, reader.advance(*state->fork(), tokens.narrow(1, length - tail, tail), &plain)), 1e-5);
    ForwardOptions forward;
    forward.alpha = config.alpha, forward.beta = config.beta, forward.top_k = config.top_k, forward.want_mass = true;
    const at::NoGradGuard no_gradient;
    const Trace whole = model->forward(tokens, forward).trace;
    ASSERT_EQ(trace.retrievals.size(), whole.retrievals.size());
    for (size_t r = 0; r < whole.retrievals.size(); ++r) {
      EXPECT_FALSE(plain.retrievals[r].lse.defined());
      const at::Tensor expected = whole.retrievals[r].lse.narrow(1, length - tail, tail), got = trace.retrievals[r].lse;
      ASSERT_EQ(got.sizes(), expected.sizes()) << describe(config);
      // Chunks that were not there yet when a row was asked stand at 0; no row sees them.
      for (int64_t t = 0; t < tail; ++t) {
        const int64_t complete = (length - tail + t + 1) / config.chunk;
        if (complete == 0) continue;
        EXPECT_LT(relative_rms(got.select(1, t).narrow(2, 0, complete), expected.select(1, t).narrow(2, 0, complete)), 1e-4)
            << describe(config);
      }
    }
  }
}

TEST(Ask, WithoutChunksKeepsOrderAndTies) {
  const at::Tensor index = at::tensor(at::ArrayRef<int64_t>({9, 7, 4, 2, -1}), at::kLong).view({1, 1, 1, 5});
  const at::Tensor score = at::tensor(at::ArrayRef<float>({1, 3, 1, 2, 0}), at::kFloat).view({1, 1, 1, 5});
  const auto chosen = [&](std::vector<int64_t> excluded, int64_t top_k) {
    const Selection s = without_chunks({index, score}, {std::move(excluded)}, top_k);
    EXPECT_EQ(s.index.sizes(), s.score.sizes());
    const at::Tensor flat = s.index.view({-1}).contiguous();
    return std::vector<int64_t>(flat.data_ptr<int64_t>(), flat.data_ptr<int64_t>() + flat.numel());
  };
  EXPECT_EQ(chosen({}, 3), (std::vector<int64_t>{9, 7, 2}));  // 9 and 4 tie: the more recent stays
  EXPECT_EQ(chosen({7}, 3), (std::vector<int64_t>{9, 4, 2}));
  EXPECT_EQ(chosen({7, 9}, 1), (std::vector<int64_t>{2}));
  EXPECT_EQ(chosen({9, 2}, 5), (std::vector<int64_t>{7, 4, -1, -1, -1}));
}

}  // namespace
}  // namespace cairn
