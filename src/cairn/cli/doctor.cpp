// cairn doctor: what this machine is, and whether Cairn can work on it.
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/core/grad_mode.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <sched.h>
#include <sys/statvfs.h>
#include <torch/headeronly/version.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <set>
#include <sstream>

#include "cairn/cli/commands.h"
#include "cairn/cli/table.h"
#include "cairn/core/error.h"
#include "cairn/core/files.h"

namespace cairn {
namespace {

constexpr double kMinimumMemory = 2e9, kMinimumDisk = 1e9;

// The first value of `key` in a file of "key : value" lines.
std::string field(const fs::path& path, const std::string& key) {
  std::ifstream in(path);
  std::string line;
  while (std::getline(in, line)) {
    if (!line.starts_with(key)) continue;
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const size_t begin = line.find_first_not_of(" \t", colon + 1);
    return begin == std::string::npos ? std::string() : line.substr(begin);
  }
  return {};
}

std::string cpu_model() {
  for (const char* key : {"model name", "Model", "CPU part"}) {
    const std::string name = field("/proc/cpuinfo", key);
    if (!name.empty()) return name;
  }
  return "unknown";
}

int usable_cores() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : at::get_num_threads();
}

std::string instruction_sets() {
  std::string flags = field("/proc/cpuinfo", "flags");
  if (flags.empty()) flags = field("/proc/cpuinfo", "Features");
  std::istringstream words(flags);
  std::set<std::string> have{std::istream_iterator<std::string>(words), {}};
  std::string shown;
  for (const char* name :
       {"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "asimd", "bf16", "sve"}) {
    if (have.count(name)) shown += (shown.empty() ? "" : " ") + std::string(name);
  }
  return shown.empty() ? "none of those that Cairn has fast paths for" : shown;
}

// FLOP/s of an n x n x n product, measured for about half a second.
double product_rate(at::Device device, at::ScalarType dtype, int64_t n) {
  const at::NoGradGuard no_grad;
  const auto options = at::TensorOptions().device(device).dtype(dtype);
  const at::Tensor a = at::randn({n, n}, options), b = at::randn({n, n}, options);
  // A number read back waits for a GPU that works behind the program's back.
  auto wait = [](const at::Tensor& c) { return c.flatten()[0].item<double>(); };
  at::Tensor c = at::matmul(a, b);
  wait(c);
  const auto start = std::chrono::steady_clock::now();
  int64_t products = 0;
  double seconds = 0;
  while (seconds < 0.4) {
    c = at::matmul(a, b);
    wait(c);
    ++products;
    seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  return 2.0 * static_cast<double>(n * n * n) * static_cast<double>(products) / seconds;
}

std::string rates(at::Device device, int64_t n) {
  return fmt::format("fp32 {:.0f}, bf16 {:.0f} GFLOP/s ({}^3)", product_rate(device, at::kFloat, n) / 1e9,
                     product_rate(device, at::kBFloat16, n) / 1e9, n);
}

std::string gpu_name() {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator("/proc/driver/nvidia/gpus", ignored)) {
    const std::string name = field(entry.path() / "information", "Model");
    if (!name.empty()) return name;
  }
  return "CUDA device";
}

int doctor() {
  Table table;
  std::vector<std::string> worries;
  table.row("program", "cairn " CAIRN_VERSION);
  table.row("CPU", cpu_model());
  table.row("cores", fmt::format("{} usable, {} threads used", usable_cores(), at::get_num_threads()));
  table.row("instruction sets", instruction_sets());
  table.row("LibTorch", fmt::format("{}, CPU capability {}", TORCH_VERSION, at::get_cpu_capability()));
  const double memory = static_cast<double>(available_memory());
  table.row("memory", format_bytes(memory) + " available");
  if (memory < kMinimumMemory) worries.push_back("less than " + format_bytes(kMinimumMemory) + " of memory: only tiny models will fit");
  struct statvfs disk {};
  if (statvfs(".", &disk) == 0) {
    const double free = static_cast<double>(disk.f_bavail) * static_cast<double>(disk.f_frsize);
    table.row("disk", format_bytes(free) + " free here");
    if (free < kMinimumDisk) worries.push_back("less than " + format_bytes(kMinimumDisk) + " free here: checkpoints may not fit");
  }
  table.row("matrix products", rates(at::kCPU, 1024));
  if (at::globalContext().hasCUDA()) {
    const int64_t devices = at::detail::getCUDAHooks().deviceCount();
    table.row("GPU", fmt::format("{} x {}", devices, gpu_name()));
    table.row("GPU products", rates(at::kCUDA, 4096));
  } else {
    table.row("GPU", "none (this program or this machine has no CUDA); the CPU does everything");
  }
  table.print();
  for (const std::string& worry : worries) fmt::print("warning: {}\n", worry);
  fmt::print("{}\n", worries.empty() ? "All is well: Cairn can work here." : "Cairn can work here, with the limits above.");
  return 0;
}

}  // namespace

void add_doctor(Command& app, Action* action) {
  Command* command = app.add_subcommand("doctor", "What this machine is, and whether Cairn can work on it");
  command->callback([action] { *action = doctor; });
}

}  // namespace cairn
