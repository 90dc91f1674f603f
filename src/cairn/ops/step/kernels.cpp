#include "cairn/ops/step/kernels.h"

#include <cstdlib>
#include <utility>

#include "cairn/core/error.h"
#include "cairn/ops/cuda/kernels.h"

namespace cairn {
namespace {

// Function-local, so that it is there whichever object is initialised first.
StepKernels& table() {
  static StepKernels it;
  return it;
}

thread_local StepRecording* recording = nullptr;

// For comparisons: with CAIRN_PLAIN_LAUNCHES set, each kernel waits for the one in front of it.
bool plain_launches() {
  static const bool plain = std::getenv("CAIRN_PLAIN_LAUNCHES") != nullptr;
  return plain;
}

}  // namespace

const StepKernels* step_kernels() { return cuda_kernels() != nullptr ? &table() : nullptr; }

bool register_step_kernels(void (*fill)(StepKernels* table)) {
  fill(&table());
  return true;
}

StepRecording::StepRecording(at::Tensor position) : position_(std::move(position)) {
  CAIRN_CHECK(recording == nullptr && position_.dim() == 0 && position_.scalar_type() == at::kLong, "a step is being recorded already");
  recording = this;
}
StepRecording::~StepRecording() { recording = nullptr; }
StepRecording* StepRecording::current() { return recording; }
bool StepRecording::runs_ahead() { return recording != nullptr && !plain_launches(); }

}  // namespace cairn
