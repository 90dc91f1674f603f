// libcairn_torch.so: registers torch.ops.cairn when it is loaded. Loads beside a Python torch (torch.ops.load_library; no part of it
// touches Python, so the interpreter's lock is not needed) and in C++ programs.
#include <torch/headeronly/version.h>

#include <string>

#include "cairn/ops/cuda/kernels.h"
#include "cairn/pytorch/operators.h"

#ifndef CAIRN_CUDA_VERSION
#define CAIRN_CUDA_VERSION "none"  // built without kernels for GPUs
#endif

namespace cairn::pytorch {
namespace {

// Found in the file by python/src/cairn/_library.py before it is loaded: against another torch, loading could crash.
[[gnu::used]] const char kBuild[] = "cairn_torch_build{cairn=" CAIRN_VERSION ";torch=" TORCH_VERSION ";cuda=" CAIRN_CUDA_VERSION "}";

std::string build() { return kBuild; }
bool has_cuda_kernels() { return cuda_kernels() != nullptr; }

torch::Library& fragment(torch::Library::Kind kind, std::optional<c10::DispatchKey> key) {
  // Never freed: destructors of this library and of torch's run in no particular order at exit.
  return *new torch::Library(kind, "cairn", key, "cairn/pytorch/library.cpp", __LINE__);
}

bool register_operators() {
  // Another copy of this library is loaded already (from a wheel and from a build folder, say): its operators stay.
  if (c10::Dispatcher::singleton().findSchema({"cairn::hsa", ""}).has_value()) return false;
  torch::Library& library = fragment(torch::Library::FRAGMENT, std::nullopt);
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  for (const char* schema : {kHsaSchema, kHsaBackwardSchema, kSelectSchema, kSelectBackwardSchema}) library.def(schema, tags);
  library.def("build() -> str", TORCH_FN(build));
  library.def("has_cuda_kernels() -> bool", TORCH_FN(has_cuda_kernels));
  const auto implementations = [](c10::DispatchKey key) -> torch::Library& { return fragment(torch::Library::IMPL, key); };
  const Keys keys{implementations(c10::DispatchKey::CPU),         implementations(c10::DispatchKey::CUDA),
                  implementations(c10::DispatchKey::Meta),        implementations(c10::DispatchKey::Autograd),
                  implementations(c10::DispatchKey::AutocastCPU), implementations(c10::DispatchKey::AutocastCUDA)};
  implement_hsa(keys);
  implement_select(keys);
  return true;
}

[[maybe_unused]] const bool registered = register_operators();

}  // namespace
}  // namespace cairn::pytorch
