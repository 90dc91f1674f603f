// The classes of failures, on hand-built choices, and which chunks a row sees, against the mask that selection uses.
#include "cairn/eval/failures.h"

#include <gtest/gtest.h>

#include "cairn/ops/select/select.h"

namespace cairn {
namespace {

// One retrieval head, one weight row.
struct Made {
  std::vector<int64_t> index;
  std::vector<float> weight;
  int64_t slots;
  Choice choice() const { return {index, weight, slots}; }
};

Failure classify(const std::vector<Made>& made, std::vector<int64_t> sources) {
  std::vector<Choice> choices;
  for (const Made& m : made) choices.push_back(m.choice());
  return classify_failure(choices, sources);
}

TEST(Failures, Classes) {
  const Made heavy{{9, 5, 2}, {.2f, .7f, .1f}, 3}, light{{9, 5, 2}, {.7f, .2f, .1f}, 3}, absent{{9, 3, -1}, {.5f, .5f, 0}, 3};
  EXPECT_EQ(classify({heavy}, {}), Failure::kNoSource);
  EXPECT_EQ(classify({heavy}, {5}), Failure::kMisread);
  EXPECT_EQ(classify({light}, {5}), Failure::kNotUsed);
  EXPECT_EQ(classify({absent}, {5}), Failure::kNotFound);
  // One retrieval that has it as the heaviest is enough; one that has not found it does not matter.
  EXPECT_EQ(classify({absent, light}, {5}), Failure::kNotUsed);
  EXPECT_EQ(classify({absent, light, heavy}, {5}), Failure::kMisread);
  // Either source counts.
  EXPECT_EQ(classify({light}, {2, 9}), Failure::kMisread);
  EXPECT_EQ(classify({heavy}, {2, 9}), Failure::kNotUsed);
  EXPECT_EQ(classify({absent}, {2, 5}), Failure::kNotFound);
  // Equal weights: the source is no lighter than the other.
  EXPECT_EQ(classify({absent}, {3}), Failure::kMisread);
  // Unused slots are chunk of nobody, even with a weight; no retrieval and no slot find nothing.
  EXPECT_EQ(classify({{{4, -1}, {.1f, .9f}, 2}}, {4}), Failure::kMisread);
  EXPECT_EQ(classify({}, {4}), Failure::kNotFound);
  EXPECT_EQ(classify({{{}, {}, 0}}, {4}), Failure::kNotFound);
}

TEST(Failures, WeightsAreSummedOverHeads) {
  // Two retrieval heads with choices of their own, four weight rows: heads 0 and 1 use the first choice, 2 and 3 the second.
  Made made{{7, 4, 4, 1}, {.1f, .9f, .2f, .8f, .1f, .9f, .2f, .8f}, 2};
  // Chunk 4: .9 + .8 + .1 + .2 = 2.0; chunk 1: .9 + .8 = 1.7; chunk 7: .3.
  EXPECT_EQ(classify({made}, {4}), Failure::kMisread);
  EXPECT_EQ(classify({made}, {1}), Failure::kNotUsed);
  EXPECT_EQ(classify({made}, {7}), Failure::kNotUsed);
  made.weight[4] = 0, made.weight[6] = 0, made.weight[0] = 1;  // chunk 4: 1.7, as chunk 1
  EXPECT_EQ(classify({made}, {1}), Failure::kMisread);
}

TEST(Failures, VisibleChunksAreThoseOfTheSelection) {
  ModelConfig c;
  for (const int64_t chunk : {1, 3, 8}) {
    for (const bool exclude : {false, true}) {
      c.chunk = chunk, c.window = 5, c.exclude_window = exclude, c.retrieval_stride = "token";
      Visibility v;
      v.chunk = chunk, v.exclude_window = exclude ? c.window : 0;
      const at::Tensor mask = visible_chunks(60, 60 / chunk, v, at::kCPU);
      for (int64_t t = 0; t < 60; ++t) EXPECT_EQ(visible_chunk_count(c, t), mask[t].sum().item<int64_t>()) << chunk << " " << t;
    }
  }
  c.chunk = 4, c.exclude_window = false, c.retrieval_stride = "chunk";
  // All tokens of chunk 3 use the choice of the last token of chunk 2, position 11, which sees chunks 0 and 1.
  for (int64_t t = 12; t < 16; ++t) EXPECT_EQ(visible_chunk_count(c, t), 2);
  EXPECT_EQ(visible_chunk_count(c, 3), 0);
  EXPECT_EQ(visible_chunk_count(c, 7), 0);
  EXPECT_EQ(visible_sources(c, 12, {7, 8}), std::vector<int64_t>{1});
  EXPECT_EQ(visible_sources(c, 12, {-1, 9}), std::vector<int64_t>{});
  EXPECT_EQ(visible_sources(c, 12, {4, 5}), std::vector<int64_t>{1}) << "no chunk twice";
  EXPECT_EQ(visible_sources(c, 12, {4, 1}), (std::vector<int64_t>{1, 0}));
}

}  // namespace
}  // namespace cairn
