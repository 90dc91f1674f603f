// Sums over processes beside other work, in main memory (on GPUs: cuda_world_test.cpp).
#include "cairn/dist/aside.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <gtest/gtest.h>

#include <csignal>
#include <string>
#include <vector>

#include "cairn/core/error.h"
#include "dist/processes.h"

namespace cairn {
namespace {

using testing::in_helper;

TEST(SumsAside, AWorldOfOneHasNone) { EXPECT_EQ(sums_aside(*World::single()), nullptr); }

TEST(SumsAsideHelper, Sums) {
  if (!in_helper()) GTEST_SKIP() << "runs inside SumsAside.ManyAtOnceAmongOtherCollectives";
  const auto world = World::from_environment();
  SumsAside* const aside = sums_aside(*world);
  ASSERT_NE(aside, nullptr);
  EXPECT_FALSE(aside->can_be_recorded());
  const int64_t n = world->size(), all = n * (n + 1) / 2;
  aside->join_sums();  // of nothing
  for (int round = 0; round < 5; ++round) {
    at::Tensor flat = at::arange(100'000, at::kFloat) * static_cast<double>(world->rank() + 1);
    for (int64_t i = 0; i < 10; ++i) {
      aside->start_sum(flat.narrow(0, i * 10'000, 10'000));
      at::Tensor other = at::full({3}, static_cast<double>(world->rank() + i), at::kDouble);
      world->all_reduce_sum(other);  // between them, as the route loss does
      EXPECT_EQ(other[0].item<double>(), static_cast<double>(n * (n - 1) / 2 + n * i));
    }
    aside->start_sum(flat.narrow(0, 0, 0));
    aside->join_sums();
    EXPECT_TRUE(flat.equal(at::arange(100'000, at::kFloat) * static_cast<double>(all)));
  }
}

TEST(SumsAside, ManyAtOnceAmongOtherCollectives) {
  for (const int size : {2, 3}) EXPECT_TRUE(testing::run_world("SumsAsideHelper.Sums", size)) << size;
}

TEST(SumsAsideHelper, PeerDies) {
  if (!in_helper()) GTEST_SKIP() << "runs inside SumsAside.DeathEndsTheOther";
  const auto world = World::from_environment();
  at::Tensor x = at::full({1 << 20}, 1.0, at::kFloat);
  if (world->rank() == 1) raise(SIGKILL);
  try {
    sums_aside(*world)->start_sum(x);
    sums_aside(*world)->join_sums();
    FAIL() << "a sum without the peer";
  } catch (const UserError& error) {
    EXPECT_NE(std::string(error.what()).find("Another process"), std::string::npos) << error.what();
  }
}

TEST(SumsAside, DeathEndsTheOther) {
  const std::vector<int> ends = testing::end_codes("SumsAsideHelper.PeerDies", 2, {{"CAIRN_DIST_TIMEOUT", "20"}});
  EXPECT_EQ(ends[0], 0);
  EXPECT_EQ(ends[1], 128 + SIGKILL);
}

}  // namespace
}  // namespace cairn
