// Exact statements about the model, through the reader (docs/algorithm.md section 5).
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/where.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "cairn/infer/memory_access.h"
#include "cairn/infer/reader.h"
#include "cairn/ops/hsa/hsa.h"
#include "infer/random_model.h"

namespace cairn {
namespace {

ModelConfig base_config() {
  ModelConfig c;
  c.vocab = 29, c.d_model = 32, c.heads = 4, c.kv_heads = 2, c.head_dim = 8, c.mlp_width = 48;
  c.window = 5, c.lower_layers = 2, c.chunk = 4, c.retrieval_dim = 16, c.memory_heads = 4, c.memory_kv_heads = 1;
  c.upper = {"memory", "window", "memory"};
  c.top_k = 3;
  return c;
}

TEST(Invariants, PermutingFarChunksLeavesTheLogits) {
  // The memory has no positions and softmax weights know no rank: chunks that all rows see may stand in any order.
  for (const double alpha : {0.0, 0.5, 1.0}) {
    ModelConfig config = base_config();
    config.alpha = alpha;
    const auto model = random_model(config, 3);
    Random random(3);
    const at::Tensor tokens = random_tokens(random, 2, 100, config.vocab);
    const Reader reader(model);
    const auto state = reader.new_reader_state(2);
    reader.read(*state, tokens.narrow(1, 0, 88));
    const auto other = reader.new_reader_state(2);
    reader.read(*other, tokens.narrow(1, 0, 88));
    // The tail of upper_reach tokens sees chunks 0 .. 19 throughout.
    std::vector<int64_t> order(20);
    std::iota(order.begin(), order.end(), 0);
    random.shuffle(order);
    const ChunkEncoding all = other->memory.copy(0, 20);
    for (int64_t to = 0; to < 20; ++to) {
      const int64_t from = order[to];
      other->memory.overwrite(to, {all.landmarks.narrow(1, from, 1), all.k.narrow(1, from * 4, 4), all.v.narrow(1, from * 4, 4)});
    }
    const at::Tensor rest = tokens.narrow(1, 88, 12);
    EXPECT_LE(relative_rms(reader.advance(*other, rest), reader.advance(*state, rest)), 1e-5);
  }
}

TEST(Invariants, TopKOfAllChunksEqualsDense) {
  ModelConfig config = base_config();
  const auto parameters = random_model(config, 4)->parameters();
  Random random(4);
  const at::Tensor tokens = random_tokens(random, 1, 80, config.vocab);
  config.top_k = 20;  // C
  const at::Tensor exactly = forward_logits(Model(config, parameters), tokens);
  config.top_k = 1000;
  const auto dense = std::make_shared<Model>(config, parameters);
  const at::Tensor more = forward_logits(*dense, tokens);
  EXPECT_LE(relative_rms(exactly, more), 1e-6);
  const Reader reader(dense);
  const auto state = reader.new_state(1);
  reader.read(*state, tokens.narrow(1, 0, 60));
  EXPECT_LE(relative_rms(reader.advance(*state, tokens.narrow(1, 60, 20)), more.narrow(1, 60, 20)), 1e-5);
}

// alpha = 1: weights softmax_i(lse) make the mix of chunk softmaxes one ordinary softmax over the selected tokens, here over pages of a
// real memory.
TEST(Invariants, ExactMassIsMaskedSoftmaxAttention) {
  const ModelConfig config = base_config();
  ChunkMemory memory(config, 2, 0, 16);
  const int64_t C = 40, S = 4, D = 8, H = 4, L = 6;
  const ChunkEncoding all{at::randn({2, C, 1, 16}), at::randn({2, C * S, 1, D}), at::randn({2, C * S, 1, D})};
  memory.append(all);
  PagedAccess access(memory);
  const at::Tensor rq = at::randn({2, L, 1, 16}), q = at::randn({2, L, H, D});
  Visibility visibility;
  visibility.chunk = S;
  visibility.first_position = 90;
  const Retrieved found = access.retrieve(rq, 5, visibility, nullptr);
  at::Tensor k, v, index;
  access.gather(found.selection.index, &k, &v, &index);
  const at::Tensor lse = hsa(q, k, v, index, at::full_like(found.score, 0), S, false, true).lse;
  const at::Tensor used = (index >= 0).expand({2, L, H, 5});
  const at::Tensor have = hsa(q, k, v, index, softmax_weights(lse, used), S).o;
  // Dense: every token of every chunk, those that were not selected masked.
  const at::Tensor chunk_of = at::arange(C * S).div(S, "floor");
  const at::Tensor chosen = (found.selection.index.view({2, L, 5, 1}) == chunk_of.view({1, 1, 1, -1})).any(2);  // [2,L,C*S]
  const at::Tensor logits = at::matmul(q.transpose(1, 2), all.k.permute({0, 2, 3, 1})) / std::sqrt(8.0);        // [2,H,L,C*S]
  const at::Tensor masked = logits.masked_fill(chosen.logical_not().unsqueeze(1), -std::numeric_limits<double>::infinity());
  const at::Tensor want = at::matmul(masked.softmax(-1), all.v.transpose(1, 2)).transpose(1, 2);
  EXPECT_LE(relative_rms(have, want), 1e-5);
}

TEST(Invariants, RepeatedRunsAreBitEqual) {
  const auto model = random_model(base_config(), 6);
  Random random(6);
  const at::Tensor tokens = random_tokens(random, 2, 90, 29);
  const Reader reader(model);
  std::vector<at::Tensor> logits;
  for (int run = 0; run < 2; ++run) {
    const auto state = reader.new_state(2);
    reader.read(*state, tokens.narrow(1, 0, 70));
    logits.push_back(reader.advance(*state, tokens.narrow(1, 70, 20)));
  }
  EXPECT_TRUE(logits[0].equal(logits[1]));
}

}  // namespace
}  // namespace cairn
