#include "cairn/eval/resources.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>

#include "cairn/core/error.h"
#include "cairn/core/files.h"

namespace cairn {
namespace {

c10::DeviceIndex index_of(at::Device device) { return device.has_index() ? device.index() : c10::DeviceIndex{0}; }

// Working memory of one segment, all rows: residual stream, joined projections and the MLP's two halves, in fp32 to be on the safe side.
int64_t working_bytes(const Reader& reader) {
  const ModelConfig& c = reader.model().config();
  const int64_t widest = 4 * c.d_model + (c.heads + 2 * c.kv_heads) * c.head_dim + 4 * c.mlp();
  return reader.segment_tokens() * widest * 4 + (int64_t{256} << 20);
}

// Of this process's share of the memory, which is whole reading blocks.
int64_t shared_length(const Reader& reader, int64_t length) {
  return reader.world() == nullptr ? length : std::min(length, length / reader.world()->size() + reader.segment_tokens());
}

// Keys and values in host memory beside a GPU.
int64_t host_bytes(const Reader& reader, int64_t rows, int64_t length) {
  if (!reader.device().is_cuda() || reader.options().keys == KeysOn::kDevice) return 0;
  return Reader::key_bytes(reader.model().config(), rows, shared_length(reader, length), reader.options().compute,
                           reader.options().eight_bit);
}

// On the reader's device.
int64_t state_bytes(const Reader& reader, int64_t rows, int64_t length) {
  return Reader::state_bytes(reader.model().config(), rows, shared_length(reader, length), reader.options().compute,
                             reader.options().eight_bit) -
         host_bytes(reader, rows, length);
}

// The least of all processes' values: what they do together they decide together.
int64_t least(int64_t value, World* world) {
  if (world == nullptr) return value;
  return world->all_gather(at::full({1}, value, at::kLong)).min().item<int64_t>();
}

void wait_for(at::Device device) {
  if (!device.is_cpu()) c10::impl::VirtualGuardImpl(device.type()).synchronizeDevice(index_of(device));
}

}  // namespace

int64_t free_memory(at::Device device) {
  if (device.is_cpu()) return available_memory();
  const auto [free, total] = at::getDeviceAllocator(device.type())->getMemoryInfo(index_of(device));
  return static_cast<int64_t>(free);
}

int64_t rows_that_fit(const Reader& reader, int64_t wanted, int64_t length) {
  const int64_t most = reader.device().is_cuda() ? 64 : 16;
  const int64_t fits = free_memory(reader.device()) / 4 / std::max<int64_t>(1, state_bytes(reader, 1, length));
  return std::clamp<int64_t>(least(std::min(fits, most), reader.world()), 1, wanted);
}

void require_memory(const Reader& reader, int64_t rows, int64_t length) {
  const int64_t memory = state_bytes(reader, rows, length), work = working_bytes(reader), have = free_memory(reader.device());
  const int64_t host = host_bytes(reader, rows, length), host_have = host > 0 ? available_memory() : 0;
  if (memory + work <= have && host <= host_have) return;
  const auto bytes = [](int64_t n) { return format_bytes(static_cast<double>(n)); };
  const EightBit& kept = reader.options().eight_bit;
  const char* const less = kept.landmarks && kept.kv ? "" : kept.kv ? ", --landmark-dtype int8" : ", --kv-dtype int8";
  if (host > 0) {
    throw ResourceError(
        "{} x {} tokens need {} of GPU memory for landmarks and {} to work, of which {} are free, and {} of pinned host memory for keys "
        "and "
        "values, of which {} are free; use shorter lengths, a smaller --batch{} or --precision bf16",
        rows, length, bytes(memory), bytes(work), bytes(have), bytes(host), bytes(host_have), less);
  }
  throw ResourceError(
      "{} x {} tokens need {} for the memory and {} to work, but only {} of {} memory are free; use shorter lengths, a smaller --batch{}{} "
      "or "
      "--precision bf16",
      rows, length, bytes(memory), bytes(work), bytes(have), reader.device().is_cuda() ? "GPU" : "main",
      reader.device().is_cuda() ? ", --memory-on host" : "", less);
}

std::optional<DeviceMemory> device_memory(at::Device device) {
  if (device.is_cpu()) return std::nullopt;
  const auto stats = at::getDeviceAllocator(device.type())->getDeviceStats(index_of(device));
  const auto& bytes = stats.allocated_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)];
  return DeviceMemory{bytes.current, bytes.peak};
}

void reset_peak_memory(at::Device device) {
  if (!device.is_cpu()) at::getDeviceAllocator(device.type())->resetPeakStats(index_of(device));
}

Stopwatch::Stopwatch(at::Device device) : device_(device) { lap(); }

double Stopwatch::lap() {
  wait_for(device_);
  const auto now = std::chrono::steady_clock::now();
  const double seconds = std::chrono::duration<double>(now - last_).count();
  last_ = now;
  return seconds;
}

}  // namespace cairn
