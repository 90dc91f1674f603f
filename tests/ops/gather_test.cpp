#include "cairn/ops/gather/gather.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>

#include "ops/compare.h"

namespace cairn {
namespace {

using namespace testing;

class Gather : public ::testing::Test {
 protected:
  void SetUp() override { CAIRN_NEED_TEST_DEVICE(); }
  Random random_{20257, 7};
};

// Every used slot holds its chunk, every unused one zeros, whatever way the device takes: many pages (more than a launch of the kernel
// holds), pages of any size, several rows, one memory for all rows, a memory that does not begin at chunk 0 (nor below 2^31).
TEST_F(Gather, EverySlotHoldsItsChunk) {
  for (int trial = 0; trial < 12; ++trial) {
    const int64_t B = 1 + random_.below(3), S = 4, G = 1 + random_.below(2), D = 8, L = 1 + random_.below(3), N = 5;
    const bool shared = trial % 3 == 1;
    const int64_t count = trial % 4 == 3 ? 130 : 1 + random_.below(5);
    ChunkPages pages;
    pages.first_chunk = trial % 2 == 0 ? 0 : (int64_t{1} << 32) + 7;
    int64_t chunks = 0;
    for (int64_t p = 0; p < count; ++p) {
      const int64_t c = 1 + random_.below(6);
      const auto page = [&] {
        const at::Tensor x = normal(random_, {shared ? 1 : B, c, S, G, D}).to(at::kFloat);
        return shared ? x.expand({B, c, S, G, D}) : x;
      };
      pages.k.push_back(page());
      pages.v.push_back(page());
      chunks += c;
    }
    at::Tensor index = at::full({B, L, 1, N}, -1, at::kLong);
    for (int64_t i = 0; i < index.numel(); ++i) {
      if (random_.uniform() < 0.8) index.mutable_data_ptr<int64_t>()[i] = pages.first_chunk + random_.below(chunks);
    }
    const at::Tensor host = index.clone();
    index = index.to(test_device());
    for (const GatheredChunks& out : {gather_chunks(pages, index), gather_chunks_reference(pages, index)}) {
      ASSERT_EQ(out.k.sizes(), (std::vector<int64_t>{B, L * N * S, G, D}));
      const at::Tensor renumbered = out.index.cpu();
      for (int64_t b = 0; b < B; ++b) {
        for (int64_t slot = 0; slot < L * N; ++slot) {
          const int64_t number = host[b][slot / N][0][slot % N].item<int64_t>();
          const at::Tensor k = out.k[b].narrow(0, slot * S, S), v = out.v[b].narrow(0, slot * S, S);
          ASSERT_EQ(renumbered[b][slot / N][0][slot % N].item<int64_t>(), number < 0 ? -1 : slot);
          if (number < 0) {
            ASSERT_EQ(k.abs().sum().item<float>() + v.abs().sum().item<float>(), 0);
            continue;
          }
          int64_t at = number - pages.first_chunk;
          size_t p = 0;
          while (at >= pages.k[p].size(1)) at -= pages.k[p++].size(1);
          ASSERT_TRUE(at::equal(k, pages.k[p][b][at])) << "row " << b << " slot " << slot;
          ASSERT_TRUE(at::equal(v, pages.v[p][b][at])) << "row " << b << " slot " << slot;
        }
      }
    }
  }
}

}  // namespace
}  // namespace cairn
