#include "cairn/train/metrics.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>

#include "cairn/core/error.h"

namespace cairn {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

template <typename T>
std::string little_endian(T value) {
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &value, sizeof(T));
  static_assert(std::endian::native == std::endian::little);
  return bytes;
}

// Protocol buffers: varint, and fields by wire type (0 varint, 1 eight bytes, 2 length-delimited, 5 four bytes).
std::string varint(uint64_t value) {
  std::string bytes;
  while (value >= 0x80) {
    bytes.push_back(static_cast<char>(value | 0x80));
    value >>= 7;
  }
  bytes.push_back(static_cast<char>(value));
  return bytes;
}
std::string tag(int field, int wire_type) { return varint(static_cast<uint64_t>(field << 3 | wire_type)); }
std::string varint_field(int field, int64_t value) { return tag(field, 0) + varint(static_cast<uint64_t>(value)); }
std::string double_field(int field, double value) { return tag(field, 1) + little_endian(value); }
std::string float_field(int field, float value) { return tag(field, 5) + little_endian(value); }
std::string bytes_field(int field, std::string_view bytes) { return tag(field, 2) + varint(bytes.size()) + std::string(bytes); }

}  // namespace

AppendFile::AppendFile(fs::path path, int64_t keep_bytes) : path_(std::move(path)), size_(keep_bytes) {
  descriptor_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
  if (descriptor_ < 0) throw UserError("{}: cannot be opened for writing: {}", path_.string(), std::strerror(errno));
  const int64_t there = lseek(descriptor_, 0, SEEK_END);
  if (there < keep_bytes) {
    close(descriptor_);
    throw UserError("{}: has {} bytes, but the checkpoint was written when it had {}; the file was shortened by something else",
                    path_.string(), there, keep_bytes);
  }
  if (ftruncate(descriptor_, keep_bytes) != 0 || lseek(descriptor_, keep_bytes, SEEK_SET) != keep_bytes) {
    const int reason = errno;
    close(descriptor_);
    throw UserError("{}: cannot be written: {}", path_.string(), std::strerror(reason));
  }
}

AppendFile::~AppendFile() { close(descriptor_); }

void AppendFile::append(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) throw ResourceError("{}: cannot be written: {}", path_.string(), std::strerror(errno));
    size_ += written;
    bytes.remove_prefix(static_cast<size_t>(written));
  }
}

void AppendFile::sync() { fdatasync(descriptor_); }

uint32_t crc32c(std::string_view bytes) {
  static const std::array<uint32_t, 256> table = [] {
    std::array<uint32_t, 256> t{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t c = i;
      for (int bit = 0; bit < 8; ++bit) c = (c & 1) != 0 ? 0x82f63b78U ^ (c >> 1) : c >> 1;
      t[i] = c;
    }
    return t;
  }();
  uint32_t crc = 0xffffffffU;
  for (const char byte : bytes) crc = table[(crc ^ static_cast<uint8_t>(byte)) & 0xff] ^ (crc >> 8);
  return crc ^ 0xffffffffU;
}

uint32_t masked_crc32c(std::string_view bytes) {
  const uint32_t crc = crc32c(bytes);
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8U;
}

std::string tf_record(std::string_view bytes) {
  const std::string length = little_endian<uint64_t>(bytes.size());
  return length + little_endian(masked_crc32c(length)) + std::string(bytes) + little_endian(masked_crc32c(bytes));
}

// Event: wall_time = 1, step = 2, file_version = 3, summary = 5. Summary: value = 1 (repeated). Value: tag = 1, simple_value = 2.
std::string version_event(double wall_time) { return double_field(1, wall_time) + bytes_field(3, "brain.Event:2"); }

std::string scalar_event(double wall_time, int64_t step, const std::map<std::string, double>& scalars) {
  std::string summary;
  for (const auto& [name, value] : scalars) {
    if (std::isfinite(value)) summary += bytes_field(1, bytes_field(1, name) + float_field(2, static_cast<float>(value)));
  }
  return double_field(1, wall_time) + varint_field(2, step) + bytes_field(5, summary);
}

Metrics::Metrics(const fs::path& folder, Sizes kept)
    : metrics_(folder / kMetricsFile, kept.metrics), events_(folder / kEventsFile, kept.events) {
  if (kept.events == 0) events_.append(tf_record(version_event(now())));
}

void Metrics::write(const std::string& json_line) { metrics_.append(json_line + "\n"); }

void Metrics::scalars(int64_t step, const std::map<std::string, double>& scalars) {
  events_.append(tf_record(scalar_event(now(), step, scalars)));
}

void Metrics::sync() {
  metrics_.sync();
  events_.sync();
}

}  // namespace cairn
