#include "cairn/train/batch.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include "cairn/core/error.h"
#include "cairn/model/losses.h"
#include "cairn/train/setup.h"
#include "train/tiny.h"

namespace cairn {
namespace {

bool same(const Batch& a, const Batch& b) {
  return at::equal(a.tokens, b.tokens) && at::equal(a.target, b.target) && at::equal(a.weight, b.weight) && at::equal(a.source, b.source) &&
         at::equal(a.key, b.key) && at::equal(a.is_answer, b.is_answer) && at::equal(a.task, b.task);
}

BatchPlan plan_of(const TrainConfig& config, const Materials& materials, int threads, int64_t rank = 0, int64_t size = 1) {
  BatchPlan plan = batch_plan(config, materials, *World::single(), at::kCPU);
  plan.threads = threads;
  plan.rank = rank;
  plan.world_size = size;
  return plan;
}

TEST(Batch, FollowsItsSamples) {
  const TrainConfig config = testing::tiny_config();
  const Materials materials = open_materials(config);
  const Batch batch = make_batch(*materials.tasks, materials.task_names, 5, 40, 3, 128, 8);
  for (int64_t b = 0; b < 3; ++b) {
    const Sample sample = materials.tasks->training_sample(5, 40 + b, 128);
    int64_t answers = 0;
    for (int64_t t = 0; t < 128; ++t) {
      EXPECT_EQ(batch.tokens[b][t].item<int64_t>(), sample.tokens[t]);
      EXPECT_EQ(batch.target[b][t].item<int64_t>(), sample.tokens[t + 1]);
      EXPECT_EQ(batch.weight[b][t].item<float>(), sample.weight[t]);
      EXPECT_EQ(batch.key[b][t].item<int64_t>(), sample.key[t] == 0 ? 0 : 1 + static_cast<int64_t>(sample.key[t] % (kKeyClasses - 1)));
      EXPECT_EQ(sample.key[t] != 0, sample.source[t][0] >= 0);  // word pairs: every answer that is stated has a key
      for (int k = 0; k < 2; ++k) {
        const int64_t position = sample.source[t][k], chunk = batch.source[b][t][k].item<int64_t>();
        EXPECT_EQ(chunk, position < 0 ? -1 : position / 8);
        // The source really states the token that the row predicts.
        if (position >= 0 && k == 0) {
          EXPECT_EQ(sample.tokens[position], sample.tokens[t + 1]);
        }
      }
      answers += batch.is_answer[b][t].item<bool>();
    }
    EXPECT_GT(answers, 0);
  }
  // The rows with a visible source, and room for them.
  std::vector<int64_t> rows;
  for (int64_t row = 0; row < 3 * 128; ++row) {
    bool visible = false;
    for (int k = 0; k < 2; ++k) {
      const int64_t chunk = batch.source[row / 128][row % 128][k].item<int64_t>();
      visible = visible || (chunk >= 0 && row % 128 >= (chunk + 1) * 8);
    }
    if (visible) rows.push_back(row);
  }
  EXPECT_FALSE(rows.empty());
  EXPECT_LE(static_cast<int64_t>(rows.size()), batch.room);
  rows.resize(3 * 128, -1);
  EXPECT_TRUE(batch.rows.equal(at::tensor(rows, at::kLong)));
  const Batch again = Batch::of(batch.packed.clone(), 3, 128, batch.first, batch.room);
  EXPECT_TRUE(same(batch, again));
  EXPECT_TRUE(batch.rows.equal(again.rows));
}

TEST(BatchLoader, ContentDoesNotDependOnThreadsOrHistory) {
  const TrainConfig config = testing::tiny_config();
  const Materials materials = open_materials(config);
  BatchLoader one(materials.tasks, plan_of(config, materials, 1)), three(materials.tasks, plan_of(config, materials, 3));
  std::vector<Batch> seen;
  for (int64_t step = 0; step < 12; ++step) {
    const int64_t length = step < 5 ? 64 : 128;  // a change of length discards what was made ahead
    seen.push_back(one.next(step, length));
    EXPECT_EQ(seen.back().tokens.size(0), 512 / length);
    EXPECT_TRUE(same(seen.back(), three.next(step, length))) << step;
  }
  BatchLoader resumed(materials.tasks, plan_of(config, materials, 2));
  for (int64_t step = 7; step < 12; ++step) EXPECT_TRUE(same(seen[step], resumed.next(step, 128))) << step;
  EXPECT_FALSE(same(seen[7], seen[8]));
}

TEST(BatchLoader, ProcessesShareTheGlobalBatch) {
  const TrainConfig config = testing::tiny_config();
  const Materials materials = open_materials(config);
  BatchLoader whole(materials.tasks, plan_of(config, materials, 1)), left(materials.tasks, plan_of(config, materials, 1, 0, 2)),
      right(materials.tasks, plan_of(config, materials, 1, 1, 2));
  for (int64_t step = 0; step < 3; ++step) {
    const Batch all = whole.next(step, 128), a = left.next(step, 128), b = right.next(step, 128);
    EXPECT_TRUE(at::equal(all.tokens, at::cat({a.tokens, b.tokens})));
    EXPECT_TRUE(at::equal(all.source, at::cat({a.source, b.source})));
  }
}

TEST(BatchLoader, GeneratorErrorsComeOut) {
  const TrainConfig config = testing::tiny_config();
  const Materials materials = open_materials(config);
  BatchLoader loader(materials.tasks, plan_of(config, materials, 2));
  EXPECT_THROW(loader.next(0, 4), UserError);  // too short for a needle and its question
  EXPECT_NO_THROW(loader.next(0, 64));
}

class Row : public TokenSource {
 public:
  Row(int64_t size, int32_t first) : size_(size), first_(first) {}
  int64_t size() const override { return size_; }
  std::string name() const override { return "row"; }
  void read(int64_t begin, std::span<int32_t> out) const override {
    ASSERT_GE(begin, 0);
    ASSERT_LE(begin + static_cast<int64_t>(out.size()), size_);
    for (size_t i = 0; i < out.size(); ++i) out[i] = first_ + static_cast<int32_t>(begin + i);
  }

 private:
  int64_t size_;
  int32_t first_;
};

TEST(JoinedSource, ReadsAcrossParts) {
  const auto joined = join_sources({std::make_shared<Row>(3, 0), std::make_shared<Row>(1, 3), std::make_shared<Row>(5, 4)});
  ASSERT_EQ(joined->size(), 9);
  for (int64_t begin = 0; begin <= 9; ++begin) {
    for (int64_t count = 0; begin + count <= 9; ++count) {
      std::vector<int32_t> out(count, -1);
      joined->read(begin, out);
      for (int64_t i = 0; i < count; ++i) EXPECT_EQ(out[i], begin + i);
    }
  }
  EXPECT_THROW(join_sources({std::make_shared<Row>(TokenSource::kUnlimited, 0), std::make_shared<Row>(1, 0)}), UserError);
  EXPECT_EQ(join_sources({}), nullptr);
}

}  // namespace
}  // namespace cairn
