// Checks and stream of the small kernels at both ends of a decoding step.
#include <ATen/ops/empty.h>

#include <limits>

#include "cairn/ops/cuda/hopper.h"
#include "cairn/ops/cuda/launch.h"
#include "cairn/ops/step/kernels.h"
#include "cairn/ops/step/launch.h"

namespace cairn {
namespace {

bool is_plain(const at::Tensor& t, at::ScalarType type, const at::Tensor& like) {
  return t.scalar_type() == type && t.is_contiguous() && t.device() == like.device();
}

bool end_supports(const StepEnd& s) {
  return runs_hopper(s.x) && is_plain(s.x, at::kFloat, s.x) && is_plain(s.logits, at::kFloat, s.x) &&
         is_plain(s.partial, at::kFloat, s.x) && is_plain(s.tail, at::kFloat, s.x) && is_plain(s.best, at::kLong, s.x) &&
         is_plain(s.position, at::kLong, s.x) && is_plain(s.arrived, at::kInt, s.x) && s.x.size(0) >= 1 && s.x.size(0) < 65536 &&
         s.logits.size(2) >= 1 && s.logits.size(2) < std::numeric_limits<int32_t>::max();
}

void end_step(const StepEnd& s) {
  const c10::cuda::CUDAGuard guard(s.x.device());
  step_cuda::EndParams p = {};
  p.x = s.x.const_data_ptr<float>();
  p.logits = s.logits.const_data_ptr<float>();
  p.partial = s.partial.mutable_data_ptr<float>();
  p.tail = s.tail.mutable_data_ptr<float>();
  p.best = s.best.mutable_data_ptr<int64_t>();
  p.position = s.position.mutable_data_ptr<int64_t>();
  p.arrived = reinterpret_cast<unsigned int*>(s.arrived.mutable_data_ptr<int32_t>());
  p.width = s.x.size(2), p.vocab = s.logits.size(2), p.chunk = s.partial.size(1), p.tail_tokens = s.tail.size(1);
  p.batch = static_cast<int>(s.x.size(0));
  p.ahead = StepRecording::runs_ahead();
  check_launch(step_cuda::launch_end(p, current_stream()));
}

bool rotary_supports(const at::Tensor& first, int64_t length) { return runs_hopper(first) && length >= 1 && length <= (1 << 20); }

RotaryTable rotary(const at::Tensor& first, int64_t length, int64_t head_dim, double theta) {
  const c10::cuda::CUDAGuard guard(first.device());
  const auto floats = first.options().dtype(at::kFloat);
  const RotaryTable table{at::empty({length, head_dim / 2}, floats), at::empty({length, head_dim / 2}, floats)};
  step_cuda::RotaryParams p = {};
  p.first = first.const_data_ptr<int64_t>();
  p.cosine = table.cosine.mutable_data_ptr<float>();
  p.sine = table.sine.mutable_data_ptr<float>();
  p.length = length, p.half = head_dim / 2, p.theta = theta;
  p.ahead = StepRecording::runs_ahead();
  check_launch(step_cuda::launch_rotary(p, current_stream()));
  return table;
}

[[maybe_unused]] const bool registered = register_step_kernels([](StepKernels* table) {
  table->end_step_supports = end_supports;
  table->end_step = end_step;
  table->rotary_supports = rotary_supports;
  table->rotary = rotary;
});

}  // namespace
}  // namespace cairn
