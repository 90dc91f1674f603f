// Several norms of parts of one product.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace cairn {

// joined [B,L,sum of heads_i D_i] -> parts [B,L,heads_i,D_i], each RMS-normed per head with gains[i] [D_i], in joined's dtype. On a GPU the
// gradients of all parts are written into one tensor where they belong; elsewhere they are put together behind it.
std::vector<at::Tensor> norm_parts(const at::Tensor& joined, const std::vector<at::Tensor>& gains, const std::vector<int64_t>& heads);

}  // namespace cairn
