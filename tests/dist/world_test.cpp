#include "cairn/dist/world.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cairn/core/error.h"
#include "dist/processes.h"

namespace cairn {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::in_helper;

TEST(World, SingleIsFree) {
  const auto world = World::single();
  EXPECT_EQ(world->rank(), 0);
  EXPECT_EQ(world->size(), 1);
  at::Tensor x = at::arange(6, at::kFloat).view({3, 2});
  const at::Tensor before = x.clone();
  world->all_reduce_sum(x);
  world->broadcast(x, 0);
  world->barrier();
  EXPECT_TRUE(at::equal(x, before));
  EXPECT_TRUE(at::equal(world->all_gather(x), before));
  EXPECT_TRUE(gather_with_gradient(x, world).is_same(x));
}

// Runs `work` with the variables set; returns the message of the UserError.
std::string error_with(const std::vector<std::pair<std::string, std::string>>& environment) {
  const std::vector<std::string> names = {"WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT", "CAIRN_DIST_TIMEOUT"};
  for (const auto& name : names) unsetenv(name.c_str());
  for (const auto& [name, value] : environment) setenv(name.c_str(), value.c_str(), 1);
  std::string message;
  try {
    World::from_environment();
  } catch (const UserError& error) {
    message = error.what();
  }
  for (const auto& name : names) unsetenv(name.c_str());
  return message;
}

TEST(World, IncompleteEnvironmentIsExplained) {
  EXPECT_EQ(error_with({}), "");
  EXPECT_EQ(error_with({{"WORLD_SIZE", "1"}}), "");
  EXPECT_THAT(error_with({{"WORLD_SIZE", "two"}}), HasSubstr("WORLD_SIZE=two"));
  EXPECT_THAT(error_with({{"WORLD_SIZE", "2"}}), AllOf(HasSubstr("RANK is not set"), HasSubstr("torchrun")));
  EXPECT_THAT(error_with({{"WORLD_SIZE", "2"}, {"RANK", "2"}}), HasSubstr("RANK=2 is not an integer from 0 to 1"));
  EXPECT_THAT(error_with({{"WORLD_SIZE", "2"}, {"RANK", "0"}}), HasSubstr("MASTER_ADDR is not set"));
  EXPECT_THAT(error_with({{"WORLD_SIZE", "2"}, {"RANK", "0"}, {"MASTER_ADDR", "127.0.0.1"}, {"MASTER_PORT", "99999"}}),
              HasSubstr("MASTER_PORT=99999"));
}

TEST(World, AbsentPeersAreAnError) {
  const std::string message = error_with({{"WORLD_SIZE", "2"},
                                          {"RANK", "0"},
                                          {"MASTER_ADDR", "127.0.0.1"},
                                          {"MASTER_PORT", std::to_string(testing::free_port())},
                                          {"CAIRN_DIST_TIMEOUT", "2"}});
  EXPECT_THAT(message, AllOf(HasSubstr("rank 0 of 2 could not meet"), HasSubstr("WORLD_SIZE")));
}

TEST(WorldHelper, Collectives) {
  if (!in_helper()) GTEST_SKIP() << "runs inside World.ThreeProcesses";
  const auto world = World::from_environment();
  const int64_t rank = world->rank(), size = world->size();
  ASSERT_EQ(size, 3);
  for (const auto dtype : {at::kFloat, at::kDouble, at::kLong}) {
    at::Tensor x = at::arange(5, dtype) + rank;
    world->all_reduce_sum(x);
    EXPECT_TRUE(at::equal(x, at::arange(5, dtype) * 3 + 3));
  }
  at::Tensor transposed = (at::arange(6, at::kFloat) * (rank + 1)).view({2, 3}).t();
  world->all_reduce_sum(transposed);
  EXPECT_TRUE(at::equal(transposed, (at::arange(6, at::kFloat) * 6).view({2, 3}).t()));

  const at::Tensor mine = at::full({2, 4}, rank, at::kLong);
  const at::Tensor all = world->all_gather(mine);
  ASSERT_EQ(all.size(0), 6);
  for (int64_t row = 0; row < 6; ++row) EXPECT_TRUE(at::equal(all[row], at::full({4}, row / 2, at::kLong)));

  at::Tensor value = at::full({3}, rank, at::kFloat);
  world->broadcast(value, 2);
  EXPECT_TRUE(at::equal(value, at::full({3}, 2.0, at::kFloat)));
  at::Tensor nothing = at::zeros({0}, at::kFloat);
  world->all_reduce_sum(nothing);
  world->barrier();
}

// loss = sum over ranks r of c_r * sum(gathered^2): d loss / d x of rank s = 2 x * sum_r c_r, though each rank computes its own term only.
TEST(WorldHelper, GatherGradient) {
  if (!in_helper()) GTEST_SKIP() << "runs inside World.ThreeProcesses";
  const auto world = World::from_environment();
  const int64_t rank = world->rank();
  at::Tensor x = (at::arange(4, at::kDouble).view({2, 2}) + 10.0 * rank).set_requires_grad(true);
  const at::Tensor gathered = gather_with_gradient(x, world);
  ASSERT_EQ(gathered.size(0), 6);
  EXPECT_TRUE(at::equal(gathered.narrow(0, 2 * rank, 2).detach(), x.detach()));
  ((rank + 1.0) * (gathered * gathered).sum()).backward();
  EXPECT_TRUE(at::equal(x.grad(), 2 * x.detach() * 6));
}

TEST(World, ThreeProcesses) {
  EXPECT_TRUE(testing::run_world("WorldHelper.Collectives", 3));
  EXPECT_TRUE(testing::run_world("WorldHelper.GatherGradient", 3));
}

// A rank that leaves must end the others with a message, not with a hang.
TEST(WorldHelper, PeerLeaves) {
  if (!in_helper()) GTEST_SKIP() << "runs inside World.PeerThatLeavesIsAnError";
  const auto world = World::from_environment();
  world->barrier();
  if (world->rank() == 1) return;
  at::Tensor x = at::zeros({8}, at::kFloat);
  try {
    world->all_reduce_sum(x);
    FAIL() << "all-reduce without the peer";
  } catch (const UserError& error) {
    EXPECT_THAT(error.what(), HasSubstr("all-reduce of rank 0 of 2 failed"));
  }
}

TEST(World, PeerThatLeavesIsAnError) { EXPECT_TRUE(testing::run_world("WorldHelper.PeerLeaves", 2)); }

}  // namespace
}  // namespace cairn
