// Checks and stream of window attention for one token a row.
#include <ATen/ops/empty.h>

#include <cmath>

#include "cairn/ops/cuda/hopper.h"
#include "cairn/ops/cuda/launch.h"
#include "cairn/ops/norm/norm.h"
#include "cairn/ops/step/kernels.h"
#include "cairn/ops/window/launch.h"

namespace cairn {
namespace {

static_assert(kNormEps == 1e-6);
constexpr int64_t kMostBatch = 1 << 16, kMostWindow = 1 << 20;

bool is_vector(const at::Tensor& x, const at::Tensor& like) {
  return !x.defined() || (x.scalar_type() == at::kFloat && x.is_contiguous() && x.device() == like.device() &&
                          reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0);
}
bool is_rows(const at::Tensor& x, const at::Tensor& like) {
  return x.scalar_type() == at::kBFloat16 && x.is_contiguous() && x.device() == like.device() &&
         reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0;
}

bool supports(const at::Tensor& joined, const at::Tensor& q_gain, const at::Tensor& k_gain, const RotaryTable& table,
              const WindowRing& ring, const at::Tensor& alibi) {
  const int64_t D = ring.k.size(3);
  return runs_hopper(joined) && is_rows(joined, joined) && is_rows(ring.k, joined) && is_rows(ring.v, joined) &&
         ring.position.device() == joined.device() && is_vector(q_gain, joined) && is_vector(k_gain, joined) &&
         is_vector(table.cosine, joined) && is_vector(table.sine, joined) && is_vector(alibi, joined) && (D == 32 || D == 64 || D == 128) &&
         joined.size(0) <= kMostBatch && ring.k.size(1) <= kMostWindow;
}

at::Tensor step(const at::Tensor& joined, const at::Tensor& q_gain, const at::Tensor& k_gain, const RotaryTable& table,
                const WindowRing& ring, const at::Tensor& alibi) {
  const c10::cuda::CUDAGuard guard(joined.device());
  const int64_t B = joined.size(0), G = ring.k.size(2), D = ring.k.size(3), H = joined.size(2) / D - 2 * G;
  const at::Tensor o = at::empty({B, 1, H, D}, joined.options());
  if (B == 0) return o;
  window_cuda::StepParams p = {};
  p.joined = joined.const_data_ptr();
  p.q_gain = q_gain.const_data_ptr<float>(), p.k_gain = k_gain.const_data_ptr<float>();
  if (table.cosine.defined()) p.cosine = table.cosine.const_data_ptr<float>(), p.sine = table.sine.const_data_ptr<float>();
  if (alibi.defined()) p.slopes = alibi.const_data_ptr<float>();
  p.position = ring.position.const_data_ptr<int64_t>();
  p.k = ring.k.mutable_data_ptr(), p.v = ring.v.mutable_data_ptr();
  p.o = o.mutable_data_ptr();
  p.batch = static_cast<int>(B), p.heads = static_cast<int>(H), p.kv_heads = static_cast<int>(G), p.head_dim = static_cast<int>(D);
  p.window = static_cast<int>(ring.k.size(1));
  p.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(D)));
  p.ahead = StepRecording::runs_ahead();
  check_launch(window_cuda::launch_step(p, current_stream()));
  return o;
}

[[maybe_unused]] const bool registered = register_step_kernels([](StepKernels* table) {
  table->window_step_supports = supports;
  table->window_step = step;
});

}  // namespace
}  // namespace cairn
