// Counter-based Gumbel noise for the choice of chunks.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace cairn {

// fp32 [B,L,Q,C] of -log(Exp(1)): element (b,t,q,i) is a function of (key, first_row + b, first_position + t, q, first_chunk + i) alone,
// the same numbers on every device and for every thread count. first_row: number of row 0 among all sequences that the key is for.
at::Tensor gumbel_noise(uint64_t key, int64_t B, int64_t L, int64_t Q, int64_t C, int64_t first_position, int64_t first_chunk,
                        at::Device device, int64_t first_row = 0);

// fp32 [2^16] on `device`: what the noise is looked up in.
at::Tensor gumbel_quantiles(at::Device device);

// While it lives, the noise kernel of a GPU adds the int64 scalar `row` on the device to first_row, in selections of this thread: recorded
// work reads there which sequences it is replayed for.
class NoiseRowOnDevice {
 public:
  explicit NoiseRowOnDevice(at::Tensor row);
  ~NoiseRowOnDevice();
  NoiseRowOnDevice(const NoiseRowOnDevice&) = delete;
  NoiseRowOnDevice& operator=(const NoiseRowOnDevice&) = delete;
  static const at::Tensor& current();  // undefined: there is none
};

}  // namespace cairn
