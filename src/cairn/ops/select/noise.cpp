#include "cairn/ops/select/noise.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>

#include <cmath>
#include <map>
#include <mutex>
#include <string>
#include <utility>

namespace cairn {
namespace {

constexpr int kLevelBits = 16;

// A 64-bit finalizer (multiply and xor-shift). Tensor shifts are arithmetic, so the copied sign bits are masked off.
at::Tensor mix(const at::Tensor& x0) {
  const auto fold = [](const at::Tensor& x, int64_t shift) {
    return x.bitwise_xor(x.bitwise_right_shift(shift).bitwise_and((int64_t{1} << (64 - shift)) - 1));
  };
  const at::Tensor x1 = fold(x0, 32) * static_cast<int64_t>(0xD6E8FEB86659FD93ull);
  const at::Tensor x2 = fold(x1, 29) * static_cast<int64_t>(0xA24BAED4963EE407ull);
  return fold(x2, 32);
}

}  // namespace

// Quantiles of the Gumbel distribution at (j + 1/2) / 2^16. Looked up instead of computed with tensor logarithms, whose last bit depends on
// where a thread's share of the elements ends and on the device.
at::Tensor gumbel_quantiles(at::Device device) {
  static std::mutex mutex;
  static auto* tables = new std::map<std::string, at::Tensor>;  // never freed: a CUDA tensor must not outlive its driver at exit
  const std::lock_guard lock(mutex);
  at::Tensor& table = (*tables)[device.str()];
  if (!table.defined()) {
    const at::Tensor host = at::empty({int64_t{1} << kLevelBits}, at::kFloat);
    float* x = host.mutable_data_ptr<float>();
    for (int64_t j = 0; j < host.numel(); ++j)
      x[j] = static_cast<float>(-std::log(-std::log((j + 0.5) / static_cast<double>(host.numel()))));
    table = host.to(device);
  }
  return table;
}

at::Tensor gumbel_noise(uint64_t key, int64_t B, int64_t L, int64_t Q, int64_t C, int64_t first_position, int64_t first_chunk,
                        at::Device device, int64_t first_row) {
  const auto numbers = [&](int64_t first, int64_t count) {
    return at::arange(first, first + count, at::TensorOptions(at::kLong).device(device));
  };
  const int64_t odd = static_cast<int64_t>(0x9E3779B97F4A7C15ull);
  at::Tensor h = mix(numbers(first_row, B).mul(odd).bitwise_xor(static_cast<int64_t>(key)));  // [B]
  h = mix(h.unsqueeze(-1) + numbers(first_position, L).mul(odd));                             // [B,L]
  h = mix(h.unsqueeze(-1) + numbers(0, Q).mul(odd));                                          // [B,L,Q]
  h = mix(h.unsqueeze(-1) + numbers(first_chunk, C).mul(odd));                                // [B,L,Q,C]
  const at::Tensor level = h.bitwise_right_shift(64 - kLevelBits).bitwise_and((int64_t{1} << kLevelBits) - 1);
  return gumbel_quantiles(device).index_select(0, level.flatten()).view({B, L, Q, C});
}

namespace {
thread_local at::Tensor row_on_device;
}  // namespace

NoiseRowOnDevice::NoiseRowOnDevice(at::Tensor row) { row_on_device = std::move(row); }
NoiseRowOnDevice::~NoiseRowOnDevice() { row_on_device = at::Tensor(); }
const at::Tensor& NoiseRowOnDevice::current() { return row_on_device; }

}  // namespace cairn
