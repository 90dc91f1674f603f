// In which order the kernels' forward of memory attention goes, and that what it lays out in shared memory fits: no GPU is needed for that.
#include <gtest/gtest.h>

#include "cairn/core/random.h"
#include "cairn/ops/hsa/cuda/plan.h"

namespace cairn::hsa_cuda {
namespace {

Params shape(int64_t L, int64_t N, int64_t G = 1, int64_t D = 64, int64_t S = 64) {
  Params p;
  p.B = 1, p.L = L, p.H = 16, p.G = G, p.D = D, p.S = S, p.C = L / S, p.N = N;
  p.R = static_cast<int32_t>(p.H / p.G);
  return p;
}
Order order_of(Params p) { return forward_order(&p); }

TEST(HsaPlan, OrderFollowsTheShape) {
  EXPECT_EQ(order_of(shape(64, 8)), Order::kRow);
  EXPECT_EQ(order_of(shape(1024, 8)), Order::kUnion);
  EXPECT_EQ(order_of(shape(4096, 8)), Order::kUnion);
  EXPECT_EQ(order_of(shape(8192, 8)), Order::kUnion);
  EXPECT_EQ(order_of(shape(65536, 8)), Order::kUnion);
  EXPECT_EQ(order_of(shape(262144, 8)), Order::kUnion);
  EXPECT_EQ(order_of(shape(262208, 8)), Order::kAsk);  // more keys than the L2 cache is good for
  EXPECT_EQ(order_of(shape(4096, 8, 2)), Order::kUnion);
  EXPECT_EQ(order_of(shape(65536, 8, 2)), Order::kAsk);      // 8 heads a group
  EXPECT_EQ(order_of(shape(65536, 8, 1, 32)), Order::kAsk);  // width 32
  EXPECT_EQ(order_of(shape(65536, 8, 1, 96)), Order::kAsk);
  EXPECT_EQ(order_of(shape(131072, 8, 1, 128)), Order::kUnion);
  EXPECT_EQ(order_of(shape(131200, 8, 1, 128)), Order::kAsk);
  EXPECT_EQ(order_of(shape(4096, 8, 4)), Order::kChunk);           // 4 heads a group
  EXPECT_EQ(order_of(shape(4096, 8, 1, 64, 128)), Order::kChunk);  // chunks of 128 keys
}

// The layout of union_lists.cuh, counted here anew.
TEST(HsaPlan, UnionOrderFitsSharedMemory) {
  Random random(71);
  int possible = 0;
  for (int i = 0; i < 2000; ++i) {
    const int64_t width = 32 * (1 + random.below(4)), heads = 1 + random.below(64), N = 1 + random.below(200);
    Params p = shape(4096, N, 1, width, 1 + random.below(64));
    p.H = heads, p.R = static_cast<int32_t>(heads);
    forward_order(&p);
    if (p.union_stages == 0) continue;
    ++possible;
    const int64_t panels = width > 64 ? 2 : 1, strips = width > 64 ? 8 : 16, strip_tokens = heads < 16 ? 16 / heads : 1;
    const int64_t tokens = heads < 16 ? strips * strip_tokens : strips / ((heads + 15) / 16);
    const int64_t queries = panels * strips * 16 * 128, stages = p.union_stages * 2 * panels * 64 * 128;
    const int64_t visits = 8 * (strips / 8 * strip_tokens * N + tokens * N / p.union_stages + 2);
    const int64_t lists = 2 * tokens * (N + 1) * 16 + 2 * visits * 4 + 2 * tokens * N * 8 + tokens * N * 8 + (strips + kFewChunks) * 4;
    EXPECT_GE(heads, kUnionHeads);
    EXPECT_LE(tokens, 32) << "a token a lane";
    EXPECT_EQ(p.union_tiles, (4096 + tokens - 1) / tokens);
    EXPECT_EQ(union_tokens(width, heads), tokens) << heads;
    EXPECT_GE(p.union_bytes, 1024 + queries + stages + lists) << "D " << width << " heads " << heads << " N " << N;
    EXPECT_LE(p.union_bytes, 227 * 1024);
    EXPECT_GE(p.union_stages, kLeastUnionStages);
    EXPECT_LE(p.union_stages, kMostUnionStages);
  }
  EXPECT_GT(possible, 500);
}

}  // namespace
}  // namespace cairn::hsa_cuda
