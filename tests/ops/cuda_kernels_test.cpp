#include <ATen/Context.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include "cairn/ops/cuda/kernels.h"

namespace cairn {
namespace {

TEST(CudaKernels, TheTableIsThereExactlyInTheGpuProgram) {
#ifdef CAIRN_WITH_CUDA_KERNELS
  ASSERT_NE(cuda_kernels(), nullptr);
  enable_cuda_kernels(false);
  EXPECT_EQ(cuda_kernels(), nullptr);
  enable_cuda_kernels(true);
  EXPECT_NE(cuda_kernels(), nullptr);
#else
  EXPECT_EQ(cuda_kernels(), nullptr);
#endif
}

TEST(CudaKernels, NoOperandsOnACpu) {
  const CudaKernels* kernels = cuda_kernels();
  if (kernels == nullptr) GTEST_SKIP() << "built without CUDA";
  const at::Tensor x = at::randn({1, 4, 1, 64});
  if (kernels->select_supports != nullptr) {
    EXPECT_FALSE(kernels->select_supports(x, {x}, 1, {}));
  }
}

}  // namespace
}  // namespace cairn
