#include <ATen/Context.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "cairn/ops/cuda/kernels.h"
#include "cairn/ops/step/kernels.h"
#ifdef CAIRN_WITH_CUDA_KERNELS
#include <cuda_runtime_api.h>
#endif

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

// Kernels in Hopper's own instructions run where their machine code does, and nowhere else: not on other GPUs, not from PTX.
TEST(CudaKernels, HoppersKernelsWhereTheirMachineCodeRuns) {
#ifdef CAIRN_WITH_CUDA_KERNELS
  if (!at::globalContext().hasCUDA()) GTEST_SKIP() << "no GPU here";
  int major = 0;
  ASSERT_EQ(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), cudaSuccess);
  const char* forced = std::getenv("CUDA_FORCE_PTX_JIT");
  const bool from_ptx = !CAIRN_WITH_HOPPER_CODE || (forced != nullptr && std::string(forced) != "0"), expected = major == 9 && !from_ptx;
  const auto on_gpu = [](at::ScalarType type) { return at::TensorOptions(at::kCUDA).dtype(type); };
  const at::Tensor x = at::zeros({1, 16, 1, 64}, on_gpu(at::kBFloat16)), index = at::zeros({1, 16, 1, 1}, on_gpu(at::kLong));
  EXPECT_EQ(cuda_kernels()->hsa_supports(x, x, index, x.narrow(3, 0, 1), 16, false, false), expected);
  const at::Tensor row = x.narrow(1, 0, 1).view({1, 64}), w = at::zeros({8, 64}, on_gpu(at::kBFloat16));
  EXPECT_EQ(step_kernels()->projection_supports(row, {}, w, {}, at::kBFloat16), expected);
  EXPECT_EQ(step_kernels()->rotary_supports(at::zeros({}, on_gpu(at::kLong)), 1), expected);
  // The others serve every GPU from Ampere on.
  EXPECT_EQ(cuda_kernels()->select_supports(x, {x}, 4, {}), major >= 8);
#else
  GTEST_SKIP() << "built without CUDA";
#endif
}

}  // namespace
}  // namespace cairn
