// 8-bit rows: numbers as int8 with one scale a row, symmetric, rounded to the nearest (ties to even).
//
//   scale = largest |x| of the row / 127, rounded to bf16 (at least 2^-126, so that rows of zeros have one)      number = round(x / scale)
//   x'    = number scale                                                                                          |x - x'| <= scale / 2
//
// A bf16 scale has 8 significant bits and a number 7: x' is exact in fp32, and quantising x' gives the same row again, bit for bit. The
// same on every device. A row with a number that is not finite has the scale NaN and numbers 0, so that all of its x' are NaN. Finite x
// below 2^127.
#pragma once

#include <ATen/core/Tensor.h>

namespace cairn {

struct Int8Rows {
  at::Tensor numbers;  // int8 [...,D], -127 .. 127
  at::Tensor scale;    // bf16 [...]
};

// x [...,D], fp32 or bf16, D >= 1.
Int8Rows quantize_rows(const at::Tensor& x);
// x' in fp32 (exact) or, rounded once, in bf16.
at::Tensor dequantize_rows(const at::Tensor& numbers, const at::Tensor& scale, at::ScalarType type);

}  // namespace cairn
