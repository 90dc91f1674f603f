// Ranks, masses and drops, against brute force and against each other.
#include "cairn/eval/diagnose.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "cairn/eval/eval_json.h"
#include "cairn/eval/evaluate.h"
#include "cairn/ops/select/select.h"
#include "infer/random_model.h"

namespace cairn {
namespace {

TEST(Diagnose, RanksAreThoseOfBruteForce) {
  for (const int64_t heads : {1, 2}) {
    ModelConfig config;
    config.chunk = 2, config.head_dim = 4, config.memory_heads = config.memory_kv_heads = 2, config.retrieval_dim = 8;
    config.retrieval_heads = heads;
    const int64_t C = 77, R = 9, width = 8 / heads;
    ChunkMemory memory(config, 1, 0, /*largest_page=*/8);
    const ChunkEncoding encoding{at::randn({1, C, heads, width}), at::randn({1, C * 2, 2, 4}), at::randn({1, C * 2, 2, 4})};
    memory.append(encoding);
    ASSERT_GT(memory.pages(), 5);
    const at::Tensor query = at::randn({1, R, heads, width}), score = landmark_scores(query, encoding.landmarks);
    Random random(heads, 5);
    std::vector<int64_t> visible;
    std::vector<std::vector<int64_t>> sources;
    for (int64_t r = 0; r < R; ++r) {
      visible.push_back(1 + random.below(C));
      sources.push_back({random.below(visible[r])});
      if (random.chance(.5)) sources[r].push_back(random.below(visible[r]));
    }
    std::vector<int64_t> expected;
    for (int64_t r = 0; r < R; ++r) {
      int64_t best_rank = C;
      for (int64_t q = 0; q < heads; ++q) {
        float best = -1e30F;
        for (const int64_t s : sources[r]) best = std::max(best, score[0][r][q][s].item<float>());
        int64_t rank = 1;
        for (int64_t i = 0; i < visible[r]; ++i) rank += score[0][r][q][i].item<float>() > best + 1e-6F;
        best_rank = std::min(best_rank, rank);
      }
      expected.push_back(best_rank);
    }
    EXPECT_EQ(source_ranks(memory, query, visible, sources), expected);
  }
}

TEST(Diagnose, Statistics) {
  EXPECT_EQ(quantile({5}, .9), 5);
  EXPECT_EQ(quantile({4, 1, 3, 2}, .5), 2);
  EXPECT_EQ(quantile({10, 9, 8, 7, 6, 5, 4, 3, 2, 1}, .9), 9);
  EXPECT_EQ(quantile({10, 9, 8, 7, 6, 5, 4, 3, 2, 1}, 1), 10);
  const std::vector<double> a = {1, 2, 3, 4, 5}, up = {2, 8, 9, 20, 21}, down = {5, 4, 3, 2, 1}, ties = {1, 1, 2, 2, 3},
                            flat = {7, 7, 7, 7, 7};
  EXPECT_NEAR(spearman(a, up), 1, 1e-12);
  EXPECT_NEAR(spearman(a, down), -1, 1e-12);
  EXPECT_NEAR(spearman(a, ties), 0.9486832980505138, 1e-12);  // 9 / sqrt(10 * 9): ranks .5 .5 2.5 2.5 4
  EXPECT_TRUE(std::isnan(spearman(a, flat)));
  EXPECT_TRUE(std::isnan(spearman({a.data(), 1}, {up.data(), 1})));
  Mean mean;
  EXPECT_TRUE(std::isnan(mean.standard_error()));
  for (const double x : {1., 2., 4., 9.}) mean.add(x);
  EXPECT_DOUBLE_EQ(mean.mean, 4);
  EXPECT_NEAR(mean.standard_error(), std::sqrt(38. / 3 / 4), 1e-12);
}

struct Cells {
  std::shared_ptr<const Tokenizer> tokenizer = make_word_pairs_tokenizer();
  ModelConfig config;
  EvalPlan plan;
  Cells() {
    config.vocab = tokenizer->vocab_size(), config.d_model = 32, config.heads = config.kv_heads = 4, config.head_dim = 8;
    config.mlp_width = 48, config.window = 5, config.lower_layers = 2, config.chunk = 8, config.retrieval_dim = 16;
    config.memory_heads = 4, config.upper = {"memory", "window"}, config.top_k = 3, config.beta = .5;
    plan.tasks = {"word_pairs"}, plan.lengths = {400}, plan.samples = 6, plan.floor = false, plan.diagnose = true;
  }
  EvalCell run(int64_t top_k = 0) const {
    TaskOptions options;
    options.mix = {"word_pairs:1"};
    const TaskSet tasks(tokenizer, nullptr, options);
    ReaderOptions reading;
    reading.top_k = top_k;
    Reader reader(random_model(config, 5), reading);
    return evaluate(reader, tasks, *tokenizer, plan).at(0);
  }
};

TEST(Diagnose, RanksAgreeWithRecall) {
  const Cells cells;
  const EvalCell cell = cells.run();
  ASSERT_TRUE(cell.diagnosis.has_value());
  ASSERT_EQ(cell.diagnosis->retrievals.size(), 1u);
  const RetrievalDiagnosis& d = cell.diagnosis->retrievals[0];
  ASSERT_EQ(static_cast<int64_t>(d.ranks.size()), cell.recall_rows[0]);
  // One retrieval head: a source is selected exactly if its rank is within the top N.
  EXPECT_EQ(std::count_if(d.ranks.begin(), d.ranks.end(), [](int64_t rank) { return rank <= 3; }), cell.recall_hits[0]);
  EXPECT_EQ(d.kl.n, cell.recall_rows[0]);
  EXPECT_GT(d.kl.mean, 0);
  EXPECT_LE(std::abs(d.spearman.mean), 1);
  EXPECT_LE(cell.diagnosis->source_drop.n, cell.tokens);

  // All chunks chosen: every source is among them, and another chunk is, too.
  const EvalCell all = cells.run(1000);
  EXPECT_EQ(all.diagnosis->source_drop.n, all.recall_rows[0]);
  EXPECT_EQ(all.diagnosis->other_drop.n, all.recall_rows[0]);
  EXPECT_NE(all.diagnosis->source_drop.mean, 0);
  // The same whether read alone or together, by edits or not at all.
  Cells alone;
  alone.plan.batch = 1;
  const EvalCell again = alone.run(1000);
  EXPECT_EQ(again.diagnosis->retrievals[0].ranks, all.diagnosis->retrievals[0].ranks);
  EXPECT_NEAR(again.diagnosis->source_drop.mean, all.diagnosis->source_drop.mean, 1e-4);
  EXPECT_NEAR(again.diagnosis->other_drop.mean, all.diagnosis->other_drop.mean, 1e-4);
  EXPECT_NEAR(again.diagnosis->retrievals[0].kl.mean, all.diagnosis->retrievals[0].kl.mean, 1e-4);

  alone.plan.diagnose = false;
  EXPECT_FALSE(alone.run().diagnosis.has_value());
}

TEST(Diagnose, LongTextsHaveNoMasses) {
  Cells cells;
  cells.plan.lengths = {kMassTokens + 512};
  cells.plan.samples = 1;
  const EvalCell cell = cells.run();
  EXPECT_EQ(cell.diagnosis->retrievals[0].kl.n, 0);
  EXPECT_FALSE(cell.diagnosis->retrievals[0].ranks.empty());
}

TEST(Diagnose, ScoresThatAreTheMassHaveNoDivergence) {
  // One key a chunk, and landmarks and retrieval queries that are those very keys and queries: score and log mass are the same number.
  // (Built from tensors, as compare_with_mass sees them: through a state is what RanksAgreeWithRecall runs.)
  const at::Tensor mass = at::randn({3, 1, 40});
  std::vector<double> a, b;
  for (int64_t i = 0; i < 40; ++i) a.push_back(mass[0][0][i].item<float>()), b.push_back(2 * mass[0][0][i].item<float>() + 1);
  EXPECT_NEAR(spearman(a, b), 1, 1e-12);
  RetrievalDiagnosis d;
  compare_with_mass(mass, mass, std::vector<int64_t>{40, 7, 1}, &d);
  EXPECT_EQ(d.kl.n, 3);
  EXPECT_NEAR(d.kl.mean, 0, 1e-6);
  EXPECT_NEAR(d.spearman.mean, 1, 1e-12);
  EXPECT_EQ(d.spearman.n, 2) << "a single chunk has no order";
  // Two chunks, masses 3/4 and 1/4 (mean of the heads 1/2 and 1, 1/2 and 0), landmark softmax 1/2 and 1/2.
  RetrievalDiagnosis two;
  const at::Tensor lse = at::tensor(at::ArrayRef<float>({0, 0, 0, -100}), at::kFloat).view({1, 2, 2});
  compare_with_mass(at::zeros({1, 1, 2}), lse, std::vector<int64_t>{2}, &two);
  EXPECT_NEAR(two.kl.mean, .75 * std::log(1.5) + .25 * std::log(.5), 1e-6);
}

}  // namespace
}  // namespace cairn
