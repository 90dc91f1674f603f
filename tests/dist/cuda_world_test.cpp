// Collectives between two GPUs: values, dtypes, strides, gradients, many in a row, and what the others hear when one process ends.
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>

#include "cairn/core/error.h"
#include "cairn/dist/aside.h"
#include "cairn/dist/world.h"
#include "cairn/ops/cuda/kernels.h"
#include "dist/processes.h"

namespace cairn {
namespace {

using testing::in_helper;

bool two_gpus() { return at::globalContext().hasCUDA() && c10::impl::VirtualGuardImpl(at::kCUDA).deviceCount() >= 2; }

TEST(CudaWorldHelper, Collectives) {
  if (!in_helper()) GTEST_SKIP() << "runs inside CudaWorld.TwoGpus";
  const at::Device gpu = local_gpu();
  const auto world = World::from_environment(gpu);
  const int64_t rank = world->rank();
  ASSERT_EQ(gpu.index(), rank);
  for (const auto dtype : {at::kFloat, at::kDouble, at::kLong, at::kInt, at::kBFloat16, at::kHalf}) {
    at::Tensor x = at::arange(70, at::TensorOptions(dtype).device(gpu)) + rank;
    world->all_reduce_sum(x);
    EXPECT_TRUE(x.equal(at::arange(70, x.options()) * 2 + 1)) << dtype;
    at::Tensor transposed = ((at::arange(6, x.options()) + 1) * (rank + 1)).view({2, 3}).t();
    world->all_reduce_sum(transposed);
    EXPECT_TRUE(transposed.equal(((at::arange(6, x.options()) + 1) * 3).view({2, 3}).t())) << dtype;
    const at::Tensor all = world->all_gather(at::full({2, 3}, rank + 5, x.options()));
    EXPECT_TRUE(all.narrow(0, 0, 2).equal(at::full({2, 3}, 5, x.options())) && all.narrow(0, 2, 2).equal(at::full({2, 3}, 6, x.options())))
        << dtype;
    at::Tensor one = at::full({4, 5}, rank, x.options()).t();
    world->broadcast(one, 1);
    EXPECT_TRUE(one.equal(at::full({5, 4}, 1, x.options()))) << dtype;
  }
  at::Tensor flags = at::full({3}, rank == 0, at::TensorOptions(at::kBool).device(gpu));
  world->broadcast(flags, 0);
  EXPECT_TRUE(flags.all().item<bool>());
  at::Tensor nothing = at::empty({0}, at::TensorOptions(at::kFloat).device(gpu));
  world->all_reduce_sum(nothing);
  at::Tensor host = at::full({3}, rank, at::kDouble);  // main memory is served beside the GPU
  world->all_reduce_sum(host);
  EXPECT_TRUE(host.equal(at::full({3}, 1.0, at::kDouble)));
  // On the stream of the work around them: none may read what is not there yet.
  at::Tensor x = at::full({1 << 22}, 1.0, at::TensorOptions(at::kFloat).device(gpu));
  for (int i = 0; i < 100; ++i) {
    x = x * 1.0;
    world->all_reduce_sum(x);
    x = x * 0.5;
  }
  EXPECT_TRUE(x.equal(at::full({1 << 22}, 1.0, x.options())));
  at::Tensor leaf = (at::arange(4, at::TensorOptions(at::kDouble).device(gpu)).view({2, 2}) + 10.0 * rank).set_requires_grad(true);
  const at::Tensor gathered = gather_with_gradient(leaf, world);
  ((rank + 1.0) * (gathered * gathered).sum()).backward();
  EXPECT_TRUE(leaf.grad().equal(2 * leaf.detach() * 3));
}

// Sums beside other work, among other collectives, queued one by one and as recorded work that is replayed.
TEST(CudaWorldHelper, SumsAside) {
  if (!in_helper()) GTEST_SKIP() << "runs inside CudaWorld.SumsBesideOtherWork";
  const at::Device gpu = local_gpu();
  const auto world = World::from_environment(gpu);
  SumsAside* const aside = sums_aside(*world);
  ASSERT_NE(aside, nullptr);
  ASSERT_TRUE(aside->can_be_recorded());
  const auto options = at::TensorOptions(at::kFloat).device(gpu);
  const int64_t part = 1 << 20;
  const at::Tensor source = at::randn({8 * part}, options), flat = at::empty({8 * part}, options), other = at::empty({part}, options),
                   weights = at::randn({2048, 2048}, options);
  at::Tensor y = at::empty({2048, 2048}, options);
  const auto work = [&] {
    for (int64_t i = 7; i >= 0; --i) {
      flat.narrow(0, i * part, part).copy_(source.narrow(0, i * part, part)).mul_(2.0);
      aside->start_sum(flat.narrow(0, i * part, part));
      at::mm_out(y, weights, weights);  // something to be beside of
      other.fill_(static_cast<double>(world->rank() + i));
      at::Tensor sum = other;
      world->all_reduce_sum(sum);
    }
    aside->join_sums();
    flat.mul_(0.5);  // reads what the sums made
  };
  at::Tensor expected = source.clone();
  world->all_reduce_sum(expected);
  for (int i = 0; i < 20; ++i) {
    flat.fill_(-1);
    work();
    ASSERT_TRUE(flat.equal(expected)) << i;  // two terms: no order to differ by
    ASSERT_TRUE(other.eq(1).all().item<bool>());
  }
  const auto recorded = cuda_kernels()->record(work);
  for (int i = 0; i < 20; ++i) {
    flat.fill_(-1);
    source.add_(1.0);
    expected = source.clone();
    world->all_reduce_sum(expected);
    recorded->replay();
    aside->replayed();
    ASSERT_TRUE(flat.equal(expected)) << i;
  }
}

// The other ends while this one waits for sums beside its work.
TEST(CudaWorldHelper, PeerDiesAside) {
  if (!in_helper()) GTEST_SKIP() << "runs inside CudaWorld.DeathEndsTheOther";
  const at::Device gpu = local_gpu();
  const auto world = World::from_environment(gpu);
  SumsAside* const aside = sums_aside(*world);
  at::Tensor x = at::full({1 << 20}, 1.0, at::TensorOptions(at::kFloat).device(gpu));
  aside->start_sum(x);
  aside->join_sums();
  EXPECT_EQ(x[0].item<float>(), 2);
  if (world->rank() == 1) raise(SIGKILL);
  aside->start_sum(x);
  aside->join_sums();
  x[0].item<float>();  // waits for ever, but for the watch
  FAIL() << "a sum without the peer";
}

// The other ends between two replays of recorded work with such sums in it: what a step of training is.
TEST(CudaWorldHelper, PeerDiesInRecordedWork) {
  if (!in_helper()) GTEST_SKIP() << "runs inside CudaWorld.DeathEndsTheOther";
  const at::Device gpu = local_gpu();
  const auto world = World::from_environment(gpu);
  SumsAside* const aside = sums_aside(*world);
  const auto options = at::TensorOptions(at::kFloat).device(gpu);
  const int64_t part = 1 << 20;
  const at::Tensor flat = at::empty({4 * part}, options), weights = at::randn({1024, 1024}, options);
  at::Tensor y = at::empty({1024, 1024}, options);
  const auto work = [&] {
    flat.fill_(1);
    for (int64_t i = 3; i >= 0; --i) {
      at::mm_out(y, weights, weights);
      aside->start_sum(flat.narrow(0, i * part, part));
    }
    aside->join_sums();
  };
  work();
  const auto recorded = cuda_kernels()->record(work);
  for (int i = 0; i < 3; ++i) {
    recorded->replay();
    aside->replayed();
    EXPECT_TRUE(flat.eq(2).all().item<bool>());
  }
  if (world->rank() == 1) raise(SIGKILL);
  recorded->replay();
  aside->replayed();
  flat[0].item<float>();  // waits for ever, but for the watch
  FAIL() << "a step without the peer";
}

TEST(CudaWorldHelper, PeerDies) {
  if (!in_helper()) GTEST_SKIP() << "runs inside CudaWorld.DeathEndsTheOther";
  const at::Device gpu = local_gpu();
  const auto world = World::from_environment(gpu);
  at::Tensor x = at::full({1 << 20}, 1.0, at::TensorOptions(at::kFloat).device(gpu));
  world->all_reduce_sum(x);
  EXPECT_EQ(x[0].item<float>(), 2);
  if (world->rank() == 1) raise(SIGKILL);
  world->all_reduce_sum(x);
  x[0].item<float>();  // waits for ever, but for the watch
  FAIL() << "an all-reduce without the peer";
}

TEST(CudaWorld, TwoGpus) {
  if (!two_gpus()) GTEST_SKIP() << "needs two GPUs";
  EXPECT_TRUE(testing::run_world("CudaWorldHelper.Collectives", 2));
}

TEST(CudaWorld, SumsBesideOtherWork) {
  if (!two_gpus()) GTEST_SKIP() << "needs two GPUs";
  EXPECT_TRUE(testing::run_world("CudaWorldHelper.SumsAside", 2));
}

TEST(CudaWorld, DeathEndsTheOther) {
  if (!two_gpus()) GTEST_SKIP() << "needs two GPUs";
  for (const char* helper : {"CudaWorldHelper.PeerDies", "CudaWorldHelper.PeerDiesAside", "CudaWorldHelper.PeerDiesInRecordedWork"}) {
    const std::vector<int> ends = testing::end_codes(helper, 2, {{"CAIRN_DIST_TIMEOUT", "8"}});
    EXPECT_EQ(ends[0], kExitUserError) << helper;
    EXPECT_EQ(ends[1], 128 + SIGKILL) << helper;
  }
}

TEST(CudaWorld, MoreProcessesThanGpusIsRefused) {
  if (!at::globalContext().hasCUDA()) GTEST_SKIP() << "needs a GPU";
  setenv("WORLD_SIZE", "100", 1);
  setenv("RANK", "99", 1);
  setenv("LOCAL_RANK", "99", 1);
  setenv("MASTER_ADDR", "127.0.0.1", 1);
  setenv("MASTER_PORT", "29500", 1);
  std::string message;
  try {
    local_gpu();
  } catch (const UserError& error) {
    message = error.what();
  }
  for (const char* name : {"WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"}) unsetenv(name);
  EXPECT_THAT(message, ::testing::HasSubstr("process 99 of this machine"));
}

}  // namespace
}  // namespace cairn
