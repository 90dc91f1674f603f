#include "cairn/dist/world.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <thread>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "cairn/core/error.h"
#include "cairn/dist/launch.h"
#include "cairn/dist/watch.h"
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

const std::vector<std::string> kVariables = {"WORLD_SIZE",
                                             "RANK",
                                             "LOCAL_RANK",
                                             "LOCAL_WORLD_SIZE",
                                             "MASTER_ADDR",
                                             "MASTER_PORT",
                                             "CAIRN_DIST_TIMEOUT",
                                             "CAIRN_DIST_BACKEND",
                                             "TORCHELASTIC_USE_AGENT_STORE",
                                             "TORCHELASTIC_RESTART_COUNT",
                                             "OMPI_COMM_WORLD_SIZE",
                                             "OMPI_COMM_WORLD_RANK",
                                             "OMPI_COMM_WORLD_LOCAL_RANK",
                                             "OMPI_COMM_WORLD_LOCAL_SIZE",
                                             "PMI_SIZE",
                                             "PMI_RANK",
                                             "MPI_LOCALRANKID",
                                             "MPI_LOCALNRANKS",
                                             "SLURM_STEP_NUM_TASKS",
                                             "SLURM_PROCID",
                                             "SLURM_LOCALID",
                                             "SLURM_STEP_NUM_NODES",
                                             "SLURM_STEP_NODELIST",
                                             "SLURM_JOB_ID",
                                             "SLURM_STEP_ID",
                                             "SLURM_NTASKS"};
using Environment = std::vector<std::pair<std::string, std::string>>;

// What `work` gives with these variables and none of the others.
template <typename Work>
auto with_environment(const Environment& environment, Work work) {
  for (const auto& name : kVariables) unsetenv(name.c_str());
  for (const auto& [name, value] : environment) setenv(name.c_str(), value.c_str(), 1);
  struct Restore {
    ~Restore() {
      for (const auto& name : kVariables) unsetenv(name.c_str());
    }
  } restore;
  return work();
}

// The message of the UserError of a world made with the variables.
std::string error_with(const Environment& environment) {
  return with_environment(environment, []() -> std::string {
    try {
      World::from_environment();
    } catch (const UserError& error) {
      return error.what();
    }
    return "";
  });
}

Rendezvous rendezvous_with(const Environment& environment) {
  return with_environment(environment, [] { return rendezvous_from_environment().value(); });
}

TEST(Launch, EveryLauncherIsUnderstood) {
  const Rendezvous torchrun = rendezvous_with({{"WORLD_SIZE", "8"},
                                               {"RANK", "5"},
                                               {"LOCAL_RANK", "1"},
                                               {"MASTER_ADDR", "node7"},
                                               {"MASTER_PORT", "1234"},
                                               {"TORCHELASTIC_USE_AGENT_STORE", "True"},
                                               {"TORCHELASTIC_RESTART_COUNT", "2"},
                                               {"SLURM_STEP_NUM_TASKS", "2"},  // torchrun started by srun, once a machine
                                               {"SLURM_PROCID", "1"}});
  EXPECT_EQ(torchrun.size, 8);
  EXPECT_EQ(torchrun.rank, 5);
  EXPECT_EQ(torchrun.local_rank, 1);
  EXPECT_EQ(torchrun.address, "node7");
  EXPECT_EQ(torchrun.port, 1234);
  EXPECT_TRUE(torchrun.store_is_there);
  EXPECT_EQ(torchrun.attempt, "2");
  EXPECT_EQ(torchrun.local_size, 0);

  const Environment open_mpi = {{"OMPI_COMM_WORLD_SIZE", "4"}, {"OMPI_COMM_WORLD_RANK", "3"}, {"OMPI_COMM_WORLD_LOCAL_RANK", "1"}};
  Environment here = open_mpi;
  here.emplace_back("OMPI_COMM_WORLD_LOCAL_SIZE", "4");
  const Rendezvous mpi = rendezvous_with(here);
  EXPECT_EQ(mpi.size, 4);
  EXPECT_EQ(mpi.rank, 3);
  EXPECT_EQ(mpi.local_rank, 1);
  EXPECT_EQ(mpi.address, "127.0.0.1");
  EXPECT_EQ(mpi.local_size, 4);
  EXPECT_FALSE(mpi.store_is_there);
  Environment there = open_mpi;
  there.emplace_back("OMPI_COMM_WORLD_LOCAL_SIZE", "2");
  EXPECT_THAT(error_with(there), AllOf(HasSubstr("MASTER_ADDR is not set"), HasSubstr("mpirun -x")));
  there.emplace_back("MASTER_ADDR", "node1");
  EXPECT_EQ(rendezvous_with(there).address, "node1");

  const Rendezvous mpich = rendezvous_with({{"PMI_SIZE", "2"}, {"PMI_RANK", "1"}, {"MPI_LOCALRANKID", "1"}, {"MPI_LOCALNRANKS", "2"}});
  EXPECT_EQ(mpich.rank, 1);
  EXPECT_EQ(mpich.local_rank, 1);
  EXPECT_EQ(mpich.address, "127.0.0.1");

  const Environment slurm = {
      {"SLURM_STEP_NUM_TASKS", "16"},        {"SLURM_PROCID", "9"},  {"SLURM_LOCALID", "1"}, {"SLURM_STEP_NUM_NODES", "2"},
      {"SLURM_STEP_NODELIST", "gpu[08-09]"}, {"SLURM_JOB_ID", "77"}, {"SLURM_STEP_ID", "0"}};
  const Rendezvous step = rendezvous_with(slurm);
  EXPECT_EQ(step.size, 16);
  EXPECT_EQ(step.rank, 9);
  EXPECT_EQ(step.local_rank, 1);
  EXPECT_EQ(step.address, "gpu08");
  Environment other = slurm;
  other.back().second = "1";
  EXPECT_NE(rendezvous_with(other).port, step.port);
  // A job's own script is one process, whatever the job may start.
  EXPECT_FALSE(with_environment({{"SLURM_NTASKS", "16"}, {"SLURM_PROCID", "0"}}, [] { return rendezvous_from_environment().has_value(); }));
  EXPECT_THAT(error_with({{"SLURM_STEP_NUM_TASKS", "2"}}), HasSubstr("SLURM_PROCID is not set"));
}

TEST(Launch, FirstHostOfAList) {
  EXPECT_EQ(first_host("one"), "one");
  EXPECT_EQ(first_host("one,two[1-2]"), "one");
  EXPECT_EQ(first_host("n[003-005,9],two"), "n003");
  EXPECT_EQ(first_host("n[7]-ib,two[1-2]"), "n7-ib");
  EXPECT_EQ(first_host("rack[2,4-5]-x"), "rack2-x");
  EXPECT_THROW(first_host("n[3-"), UserError);
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

c10::intrusive_ptr<c10d::Store> test_store(const Rendezvous& r, bool server) {
  c10d::TCPStoreOptions options;
  options.port = static_cast<uint16_t>(r.port);
  options.isServer = server;
  options.waitWorkers = false;
  return c10::make_intrusive<c10d::TCPStore>(r.address, options);
}

// The others are told at once by a process that ends with an error, and find out themselves when one is killed.
TEST(WorldHelper, Watched) {
  if (!in_helper()) GTEST_SKIP() << "runs inside World.WatchEndsTheOthers";
  Rendezvous r = rendezvous_from_environment().value();
  PeerWatch watch(r, test_store(r, false), [] { return std::string(); });
  const auto store = test_store(r, false);
  store->add("here", 1);
  while (store->add("here", 0) < r.size) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  watch.start();
  std::this_thread::sleep_for(std::chrono::milliseconds(1200));
  if (r.rank == 2) {
    if (std::string(std::getenv("HOW")) == "killed") raise(SIGKILL);
    watch.tell_failure();
    _exit(7);
  }
  std::this_thread::sleep_for(std::chrono::seconds(60));
}

TEST(World, WatchEndsTheOthers) {
  for (const std::string how : {"killed", "failed"}) {
    Rendezvous server;
    server.address = "127.0.0.1";
    server.port = testing::free_port();
    const auto store = test_store(server, true);
    std::vector<pid_t> pids;
    const auto begin = std::chrono::steady_clock::now();
    for (int rank = 0; rank < 3; ++rank) {
      pids.push_back(testing::start_helper("WorldHelper.Watched", {{"RANK", std::to_string(rank)},
                                                                   {"WORLD_SIZE", "3"},
                                                                   {"MASTER_ADDR", server.address},
                                                                   {"MASTER_PORT", std::to_string(server.port)},
                                                                   {"CAIRN_DIST_TIMEOUT", "3"},
                                                                   {"HOW", how}}));
    }
    EXPECT_EQ(testing::wait_helper(pids[0]), kExitUserError) << how;
    EXPECT_EQ(testing::wait_helper(pids[1]), kExitUserError) << how;
    EXPECT_EQ(testing::wait_helper(pids[2]), how == "killed" ? 128 + SIGKILL : 7);
    EXPECT_LT(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(), 30) << how;
  }
}

}  // namespace
}  // namespace cairn
