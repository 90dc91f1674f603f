#include "cairn/ops/step/kernels.h"

#include <cstdlib>

#include "cairn/ops/cuda/kernels.h"

namespace cairn {
namespace {

// Function-local, so that it is there whichever object is initialised first.
StepKernels& table() {
  static StepKernels it;
  return it;
}

thread_local int running_ahead = 0;

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

RunAhead::RunAhead() { ++running_ahead; }
RunAhead::~RunAhead() { --running_ahead; }
bool RunAhead::allowed() { return running_ahead > 0 && !plain_launches(); }

}  // namespace cairn
