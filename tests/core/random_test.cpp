#include "cairn/core/random.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

namespace cairn {
namespace {

// The known answers that Salmon et al. publish with their Random123 library.
TEST(Philox, KnownAnswers) {
  struct Case {
    uint32_t counter[4], key[2], expected[4];
  };
  const Case cases[] = {
      {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}, {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
  };
  for (const Case& c : cases) {
    uint32_t out[4];
    philox4x32_10(c.counter, c.key, out);
    for (int i = 0; i < 4; ++i) EXPECT_EQ(out[i], c.expected[i]);
  }
}

TEST(Random, IsTheCounterStreamOfItsKey) {
  Random random(uint64_t{0});
  EXPECT_EQ(random.next(), 0xe169c58d6627e8d5ull);
  EXPECT_EQ(random.next(), 0x9b00dbd8bc57ac4cull);
  uint32_t counter[4] = {1, 0, 0, 0}, key[2] = {0, 0}, out[4];
  philox4x32_10(counter, key, out);
  EXPECT_EQ(random.next(), out[0] | uint64_t{out[1]} << 32);
}

TEST(Random, CopyForks) {
  Random a(7, 3);
  a.next();
  Random b = a;
  for (int i = 0; i < 5; ++i) EXPECT_EQ(a.next(), b.next());
}

// Runs on other machines and later versions must draw the same samples: these values are part of the promise.
TEST(Random, ValuesAreFixedForEver) {
  EXPECT_EQ(stream_key({1, 2, 3}), 7001161108104961525ull);
  Random random(1, 2);
  EXPECT_EQ(random.below(1000000), 449158);
}

TEST(StreamKey, DependsOnEveryWordItsPlaceAndTheirNumber) {
  std::set<uint64_t> keys = {stream_key({}),     stream_key({0}),       stream_key({0, 0}),   stream_key({1, 2}),
                             stream_key({2, 1}), stream_key({1, 2, 0}), stream_key({0, 1, 2})};
  EXPECT_EQ(keys.size(), 7u);
  // Each of 64 input bits flips about half of the output bits.
  for (int bit = 0; bit < 64; ++bit) {
    const int flipped = __builtin_popcountll(stream_key({5, 0}) ^ stream_key({5, uint64_t{1} << bit}));
    EXPECT_GT(flipped, 12);
    EXPECT_LT(flipped, 52);
  }
  std::set<uint64_t> many;
  for (uint64_t seed = 0; seed < 100; ++seed)
    for (uint64_t i = 0; i < 1000; ++i) many.insert(stream_key({seed, i}));
  EXPECT_EQ(many.size(), 100000u);
}

TEST(Random, BelowIsUniform) {
  Random random(11, 0);
  constexpr int kBins = 7, kDraws = 70000;
  int counts[kBins] = {};
  for (int i = 0; i < kDraws; ++i) ++counts[random.below(kBins)];
  double chi = 0;
  for (int count : counts) chi += std::pow(count - kDraws / kBins, 2) / (kDraws / kBins);
  EXPECT_LT(chi, 25);  // 6 degrees of freedom: p = 0.0003
}

TEST(Random, BelowIsUnbiasedWhereTheRangeDoesNotDivide) {
  // With n = 3 * 2^61 a plain product or remainder would give the first third twice the weight of the others.
  const int64_t n = int64_t{3} << 61;
  Random random(12, 0);
  int low = 0;
  for (int i = 0; i < 30000; ++i) low += random.below(n) < n / 3;
  EXPECT_NEAR(low / 30000.0, 1.0 / 3, 0.015);
}

TEST(Random, BelowStaysInRange) {
  rc::check([](uint64_t key) {
    const int64_t n = *rc::gen::inRange<int64_t>(1, std::numeric_limits<int64_t>::max());
    const int64_t value = Random(key).below(n);
    RC_ASSERT(0 <= value && value < n);
  });
  EXPECT_EQ(Random(3).below(1), 0);
}

TEST(Random, UniformNormalExponentialHaveTheirMoments) {
  Random random(5, 5);
  constexpr int kDraws = 200000;
  double u = 0, uu = 0, n = 0, nn = 0, nnn = 0, nnnn = 0, e = 0, ee = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double a = random.uniform(), b = random.normal(), c = random.exponential();
    ASSERT_TRUE(a >= 0 && a < 1);
    ASSERT_TRUE(c > 0 && std::isfinite(c) && std::isfinite(b));
    u += a, uu += a * a, n += b, nn += b * b, nnn += b * b * b, nnnn += b * b * b * b, e += c, ee += c * c;
  }
  EXPECT_NEAR(u / kDraws, 0.5, 0.004);
  EXPECT_NEAR(uu / kDraws, 1.0 / 3, 0.004);
  EXPECT_NEAR(n / kDraws, 0, 0.01);
  EXPECT_NEAR(nn / kDraws, 1, 0.02);
  EXPECT_NEAR(nnn / kDraws, 0, 0.05);
  EXPECT_NEAR(nnnn / kDraws, 3, 0.15);
  EXPECT_NEAR(e / kDraws, 1, 0.015);
  EXPECT_NEAR(ee / kDraws, 2, 0.08);
}

TEST(Random, ShuffleReachesEveryOrderEquallyOften) {
  Random random(9, 9);
  std::map<std::vector<int>, int> counts;
  for (int i = 0; i < 24000; ++i) {
    std::vector<int> values = {0, 1, 2, 3};
    random.shuffle(values);
    ++counts[values];
  }
  EXPECT_EQ(counts.size(), 24u);
  for (const auto& [order, count] : counts) EXPECT_NEAR(count, 1000, 150);
}

TEST(Random, ChooseGivesDistinctNumbersInRange) {
  rc::check([](uint64_t key) {
    const int64_t n = *rc::gen::inRange<int64_t>(0, 300);
    const int64_t k = *rc::gen::inRange<int64_t>(0, n + 1);
    const auto chosen = Random(key).choose(n, k);
    RC_ASSERT(static_cast<int64_t>(chosen.size()) == k);
    RC_ASSERT(static_cast<int64_t>(std::set<int64_t>(chosen.begin(), chosen.end()).size()) == k);
    for (int64_t c : chosen) RC_ASSERT(0 <= c && c < n);
  });
  // Every ordered pair of 4 numbers equally often.
  Random random(2, 2);
  std::map<std::vector<int64_t>, int> counts;
  for (int i = 0; i < 12000; ++i) ++counts[random.choose(4, 2)];
  EXPECT_EQ(counts.size(), 12u);
  for (const auto& [pair, count] : counts) EXPECT_NEAR(count, 1000, 150);
  // O(k) memory: n may be astronomically large.
  EXPECT_EQ(random.choose(int64_t{1} << 62, 5).size(), 5u);
}

}  // namespace
}  // namespace cairn
