// Times decoding on a GPU and shows where a step's time goes: bench_decode_cuda MODEL [int8|int8-landmarks|int8-kv] [TOKENS ...]. For each
// length a memory of random
// tokens is read (bf16), then tokens are decoded behind it as recorded work: each waited for, then without waiting; then the kernels of one
// step in their order.
#include <ATen/Context.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/randint.h>
#include <c10/cuda/CUDAFunctions.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/profiler_kineto.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "cairn/core/error.h"
#include "cairn/infer/graph_decoder.h"
#include "cairn/model/model.h"

namespace cairn {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

struct Kernel {
  std::string name;
  int64_t start = 0, nanoseconds = 0;
};

// What runs on the device during `work`, in order.
template <typename Work>
std::vector<Kernel> watch(const Work& work) {
  namespace profiler = torch::autograd::profiler;
  const profiler::ProfilerConfig config(profiler::ProfilerState::KINETO);
  const std::set<profiler::ActivityType> activities = {profiler::ActivityType::CUDA};
  profiler::prepareProfiler(config, activities);
  profiler::enableProfiler(config, activities);
  work();
  c10::cuda::device_synchronize();
  const auto result = profiler::disableProfiler();
  std::vector<Kernel> kernels;
  for (const auto& event : result->events()) {
    if (event.deviceType() != c10::DeviceType::CUDA) continue;
    kernels.push_back({event.name(), static_cast<int64_t>(event.startNs()), static_cast<int64_t>(event.durationNs())});
  }
  std::sort(kernels.begin(), kernels.end(), [](const Kernel& a, const Kernel& b) { return a.start < b.start; });
  return kernels;
}

std::string brief(std::string name) {
  for (const char* noise : {"void ", "cairn::", "(anonymous namespace)::", "at::native::", "__nv_"}) {
    for (size_t at; (at = name.find(noise)) != std::string::npos;) name.erase(at, std::string(noise).size());
  }
  return name.substr(0, 80);
}

// Decodes behind `state`, which stays as it is.
void measure(const Reader& reader, const ReaderState& behind, const std::string& name, bool kernels) {
  const int64_t chunk = reader.model().config().chunk;
  const auto state = behind.fork();
  at::Tensor next = at::randint(1, reader.vocab(), {1, 8}, at::TensorOptions(at::kLong).device(reader.device()));
  next = reader.advance_last(*state, next, 1).select(1, 0).argmax(-1, true);
  constexpr int kTokens = 320;
  StepDecoder steps(reader, *state, kTokens);
  int64_t position = state->position();
  const auto step = [&] {
    steps.advance(next);
    next = steps.best();
    ++position;
  };
  for (int i = 0; i < 10; ++i) step();
  c10::cuda::device_synchronize();
  std::vector<double> each;
  for (int i = 0; i < kTokens; ++i) {
    const double begin = now();
    step();
    c10::cuda::device_synchronize();
    each.push_back(now() - begin);
  }
  double sum = 0;
  for (const double t : each) sum += t;
  std::sort(each.begin(), each.end());
  const double begin = now();
  for (int i = 0; i < kTokens; ++i) step();
  c10::cuda::device_synchronize();
  const double free = (now() - begin) / kTokens;
  fmt::print(
      "{}: {:.4f} ms a token (median; {:.4f} to {:.4f}; mean {:.4f}: every {} tokens a chunk is encoded, some begin a page and a "
      "recording), {:.4f} without waiting\n",
      name, 1e3 * each[kTokens / 2], 1e3 * each[0], 1e3 * each.back(), 1e3 * sum / kTokens, chunk, 1e3 * free);
  if (!kernels) return;
  while (position % chunk > chunk / 2) step();  // no recording below
  for (int i = 0; i < 3; ++i) step();
  const std::vector<Kernel> seen = watch(step);
  for (const Kernel& kernel : seen) {
    fmt::print("  {:>8.2f} {:>7.2f} us  {}\n", static_cast<double>(kernel.start - seen[0].start) * 1e-3,
               static_cast<double>(kernel.nanoseconds) * 1e-3, brief(kernel.name));
  }
  if (!seen.empty()) {
    fmt::print("  {:>8.2f} us to the end of {} kernels\n",
               static_cast<double>(seen.back().start + seen.back().nanoseconds - seen[0].start) * 1e-3, seen.size());
  }
}

int run(int count, char** arguments) {
  if (count < 2 || !at::globalContext().hasCUDA()) {
    fmt::print(
        stderr,
        "usage: bench_decode_cuda MODEL [int8|int8-landmarks|int8-kv] [TOKENS[h] ...], on a machine with a GPU; int8: kept as 8-bit rows; "
        "h: also from pinned host memory\n");
    return 2;
  }
  const at::NoGradGuard no_gradient;
  const at::Device device(at::kCUDA, 0);
  const LoadedModel loaded = load_model(arguments[1], device);
  ReaderOptions options;
  options.compute = at::kBFloat16;
  int a = 2;
  if (count > 2 && std::string_view(arguments[2]).starts_with("int8")) {
    const std::string_view what = arguments[a++];
    if (what != "int8" && what != "int8-landmarks" && what != "int8-kv") throw UserError("{}: int8, int8-landmarks or int8-kv", what);
    options.eight_bit = {what != "int8-kv", what != "int8-landmarks"};
  }
  const Reader reader(std::make_shared<Model>(loaded.config, loaded.parameters), options);
  for (; a < count; ++a) {
    const std::string text = arguments[a];
    const int64_t tokens = std::atoll(arguments[a]);
    const auto state = reader.new_reader_state(1);
    const double begin = now();
    for (int64_t done = 0; done < tokens; done += 65536) {
      reader.read(*state, at::randint(1, reader.vocab(), {1, std::min<int64_t>(65536, tokens - done)},
                                      at::TensorOptions(at::kLong).device(device)));
    }
    c10::cuda::device_synchronize();
    fmt::print("{} tokens read in {:.2f} s, memory of {} bytes\n", tokens, now() - begin, state->memory.bytes());
    measure(reader, *state, fmt::format("behind {} tokens", tokens), /*kernels=*/true);
    if (text.back() != 'h') continue;
    const double copying = now();
    state->memory = state->memory.with_keys_on_host();
    c10::cuda::device_synchronize();
    fmt::print("keys and values to pinned host memory: {} bytes in {:.2f} s\n", state->memory.host_bytes(), now() - copying);
    measure(reader, *state, fmt::format("behind {} tokens, keys and values in host memory", tokens), /*kernels=*/false);
  }
  return 0;
}

}  // namespace
}  // namespace cairn

int main(int count, char** arguments) {
  try {
    return cairn::run(count, arguments);
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_decode_cuda: {}\n", error.what());
    return 1;
  }
}
