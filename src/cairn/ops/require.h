// What every operator asks of its operands before a kernel sees them: one that reads memory of another device, or behind a tensor's end,
// would leave a GPU that refuses all further work. Messages name operator, argument, what came and what is expected.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "cairn/core/error.h"

namespace cairn {

// "[2,3,64]"
inline std::string shape_text(at::IntArrayRef sizes) {
  std::string text = "[";
  for (const int64_t size : sizes) text += (text.size() > 1 ? "," : "") + std::to_string(size);
  return text + "]";
}

// Argument `name` of operator `op` lies on the device of argument `first`. Undefined tensors are not there to be asked.
inline void require_device(const char* op, const char* name, const at::Tensor& x, const char* first, const at::Tensor& like) {
  CAIRN_CHECK(!x.defined() || x.device() == like.device(), "{}: argument {} is on {}; expected {}, the device of {}", op, name,
              x.device().str(), like.device().str(), first);
}

// It has these sizes; expected: what they stand for.
inline void require_sizes(const char* op, const char* name, const at::Tensor& x, at::IntArrayRef sizes, const char* expected) {
  CAIRN_CHECK(x.sizes() == sizes, "{}: argument {} has shape {}; expected {}, here {}", op, name, shape_text(x.sizes()), expected,
              shape_text(sizes));
}

inline void require_dimensions(const char* op, const char* name, const at::Tensor& x, int64_t dimensions, const char* expected) {
  CAIRN_CHECK(x.dim() == dimensions, "{}: argument {} has shape {}; expected {} dimensions, {}", op, name, shape_text(x.sizes()),
              dimensions, expected);
}

inline void require_type(const char* op, const char* name, const at::Tensor& x, at::ScalarType type) {
  CAIRN_CHECK(x.scalar_type() == type, "{}: argument {} has dtype {}; expected {}", op, name, c10::toString(x.scalar_type()),
              c10::toString(type));
}

}  // namespace cairn
