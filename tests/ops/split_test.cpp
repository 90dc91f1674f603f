#include "cairn/ops/split/split.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>

#include "ops/compare.h"

namespace cairn {
namespace {

using namespace testing;

class Split : public ::testing::Test {
 protected:
  void SetUp() override { CAIRN_NEED_TEST_DEVICE(); }
  Random random_{20256, 7};
};

TEST_F(Split, IsSlicesWithTheSameGradient) {
  const Tensors x = {normal(random_, {3, 5, 14})};
  const at::Tensor c = normal(random_, {3, 5, 10});
  // The second part is not used: its gradient is 0.
  const Operator fast = [](const Tensors& t) {
    const auto parts = split_columns(t[0], {6, 4, 4});
    return at::cat({parts[2] * 3.0, parts[0] * parts[0]}, -1);
  };
  const Operator plain = [](const Tensors& t) {
    return at::cat({t[0].narrow(-1, 10, 4) * 3.0, t[0].narrow(-1, 0, 6) * t[0].narrow(-1, 0, 6)}, -1);
  };
  const Outcome a = outcome(fast, x, c, at::kDouble), b = outcome(plain, x, c, at::kDouble);
  EXPECT_TRUE(at::equal(a.y, b.y));
  EXPECT_TRUE(at::equal(a.grads[0], b.grads[0]));
}

TEST_F(Split, PartsAreViews) {
  const at::Tensor x = normal(random_, {4, 9});
  const auto parts = split_columns(x, {2, 0, 7});
  ASSERT_EQ(parts.size(), 3u);
  EXPECT_EQ(parts[2].const_data_ptr(), x.narrow(1, 2, 7).const_data_ptr());
  EXPECT_EQ(parts[1].numel(), 0);
}

}  // namespace
}  // namespace cairn
