#pragma once

#include <ATen/core/Tensor.h>

namespace cairn {

// What the backward of memory attention returns: shapes and dtypes of the inputs.
struct HsaGradients {
  at::Tensor q, k, v, weight;
};

}  // namespace cairn
