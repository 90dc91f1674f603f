// The sizes of one memory attention, read off the tensors and checked once.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace cairn {

struct HsaShape {
  int64_t batch = 0, rows = 0;    // B, L
  int64_t heads = 0, groups = 0;  // H, G
  int64_t width = 0;              // D
  int64_t chunk = 0, chunks = 0;  // S, C = floor(M / S)
  int64_t slots = 0;              // N
  int64_t index_heads = 0;        // 1 or G
  int64_t weight_heads = 0;       // 1, G or H
};

// CAIRN_CHECKs shapes, dtypes and devices against the contract in hsa.h.
HsaShape hsa_shape(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& index, const at::Tensor& weight,
                   int64_t chunk);

}  // namespace cairn
