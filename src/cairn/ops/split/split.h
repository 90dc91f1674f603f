// The columns of one joint product as parts (queries, keys, values). Autograd's own slices each give a gradient of the whole width, mostly
// zeros, to be added up; here the gradients are put side by side once.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace cairn {

// x [..., W] -> views [..., w_i], sum of w_i = W. Differentiable. Not for changes in place.
std::vector<at::Tensor> split_columns(const at::Tensor& x, const std::vector<int64_t>& widths);

}  // namespace cairn
