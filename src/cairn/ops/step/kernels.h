// The kernels of a decoding step as seen by operators, beside the table of ops/cuda/kernels.h and in the same manner: null entries are not
// built in, X_supports says whether X takes these operands.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "cairn/ops/hsa/pages.h"
#include "cairn/ops/rotary/rotary.h"
#include "cairn/ops/select/int8.h"
#include "cairn/ops/step/step.h"
#include "cairn/ops/window/step.h"

namespace cairn {

struct StepKernels {
  // Products of few rows (ops/projection). more: bias or residual.
  bool (*projection_supports)(const at::Tensor& x, const at::Tensor& gain, const at::Tensor& w, const at::Tensor& more,
                              at::ScalarType out) = nullptr;
  at::Tensor (*project)(const at::Tensor& x, const at::Tensor& gain, const at::Tensor& w, const at::Tensor& bias,
                        const at::Tensor& residual, bool swiglu, at::ScalarType out) = nullptr;
  // Window attention (ops/window/step.h).
  bool (*window_step_supports)(const at::Tensor& joined, const at::Tensor& q_gain, const at::Tensor& k_gain, const RotaryTable& table,
                               const WindowRing& ring, const at::Tensor& alibi) = nullptr;
  at::Tensor (*window_step)(const at::Tensor& joined, const at::Tensor& q_gain, const at::Tensor& k_gain, const RotaryTable& table,
                            const WindowRing& ring, const at::Tensor& alibi) = nullptr;
  // Memory attention over pages (ops/hsa/pages.h).
  bool (*hsa_pages_supports)(const at::Tensor& q, const at::Tensor& gain, const ChunkPages& pages, const at::Tensor& index,
                             const at::Tensor& score) = nullptr;
  at::Tensor (*hsa_pages)(const at::Tensor& q, const at::Tensor& gain, const ChunkPages& pages, const at::Tensor& index,
                          const at::Tensor& score, const ChunkWeighting& weighting) = nullptr;
  // Selection among 8-bit landmarks (ops/select/int8.h), 1 <= n <= their number.
  bool (*select_int8_supports)(const at::Tensor& rq, const Int8Landmarks& landmarks, int64_t n) = nullptr;
  Selection (*select_int8)(const at::Tensor& rq, const Int8Landmarks& landmarks, int64_t n, const Visibility& visibility) = nullptr;
  // The end of the step (ops/step/step.h), and angles of positions from `first` on (ops/rotary).
  bool (*end_step_supports)(const StepEnd& step) = nullptr;
  void (*end_step)(const StepEnd& step) = nullptr;
  bool (*rotary_supports)(const at::Tensor& first, int64_t length) = nullptr;
  RotaryTable (*rotary)(const at::Tensor& first, int64_t length, int64_t head_dim, double theta) = nullptr;

  // Makes mapped host memory readable for kernels, at its own address; returns what is in the way, or nothing. At the end it is taken back.
  std::string (*register_host)(void* data, int64_t bytes) = nullptr;
  void (*unregister_host)(void* data) = nullptr;
};

// Null where this program was built without CUDA, and while kernels are switched off (enable_cuda_kernels).
const StepKernels* step_kernels();
// For the objects that hold kernels, as register_cuda_kernels().
bool register_step_kernels(void (*fill)(StepKernels* table));

// While one lives, this thread records a decoding step that will run many times: weights, window rings and landmarks are written before it
// runs, never in it, so its kernels may fetch those while the kernel in front of them still runs (ops/cuda/dependent.cuh); and the position
// that decides what is visible lies on the device, so a memory may hand out its pages with the slots that are yet to be filled.
class StepRecording {
 public:
  explicit StepRecording(at::Tensor position);  // int64, no dimension
  ~StepRecording();
  StepRecording(const StepRecording&) = delete;
  StepRecording& operator=(const StepRecording&) = delete;

  // Of this thread; null: nothing is being recorded.
  static StepRecording* current();
  static bool runs_ahead();  // current() is there, and launches ahead are not switched off

  const at::Tensor& position() const { return position_; }
  // Selections of this step, and those of them whose kernel reads the position when it runs.
  int selections = 0, lasting_selections = 0;

 private:
  const at::Tensor position_;
};

}  // namespace cairn
