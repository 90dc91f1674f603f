#include "cairn/ops/hsa/cuda/maps.cuh"

namespace cairn::hsa_cuda {
namespace {

using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*, const cuuint32_t*,
                            const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

// The driver's function through the runtime, so that the program needs no libcuda to start.
Encode find_encode() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result;
  if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &result) != cudaSuccess)
    return nullptr;
  return result == cudaDriverEntryPointSuccess ? reinterpret_cast<Encode>(function) : nullptr;
}

// [batches, tokens, heads, D]
cudaError_t make_map(CUtensorMap* map, const Rows& x, int64_t batches, int64_t tokens, int64_t heads, int64_t D, int64_t box_heads,
                     int64_t box_tokens) {
  static const Encode encode = find_encode();
  if (encode == nullptr) return cudaErrorNotSupported;
  const auto bytes = [](int64_t size, int64_t stride) { return static_cast<cuuint64_t>(size > 1 ? stride * 2 : 16); };
  const cuuint64_t sizes[4] = {static_cast<cuuint64_t>(D), static_cast<cuuint64_t>(heads), static_cast<cuuint64_t>(tokens),
                               static_cast<cuuint64_t>(batches)};
  const cuuint64_t strides[3] = {bytes(heads, x.head), bytes(tokens, x.token), bytes(batches, x.batch)};
  const cuuint32_t box[4] = {64, static_cast<cuuint32_t>(box_heads), static_cast<cuuint32_t>(box_tokens), 1}, steps[4] = {1, 1, 1, 1};
  const CUresult result =
      encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, const_cast<void*>(x.data), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
             CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace

cudaError_t make_maps(const Params& p, Maps* maps) {
  const int64_t R = p.H / p.G, keys = p.C * p.S;
  cudaError_t error = make_map(&maps->q, p.q, p.B, p.L, p.H, p.D, R, 1);
  if (error == cudaSuccess) error = make_map(&maps->k, p.k, p.B, keys, p.G, p.D, 1, p.box_keys);
  if (error == cudaSuccess) error = make_map(&maps->v, p.v, p.B, keys, p.G, p.D, 1, p.box_keys);
  if (error == cudaSuccess && p.grad_o.data != nullptr) error = make_map(&maps->grad_o, p.grad_o, p.B, p.L, p.H, p.D, R, 1);
  return error;
}

}  // namespace cairn::hsa_cuda
