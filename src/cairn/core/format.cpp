// Numbers as people write them: bytes, lengths, durations; and hashes.
#include <fmt/format.h>
#include <xxhash.h>

#include <charconv>
#include <cmath>

#include "cairn/core/files.h"

namespace cairn {

uint64_t hash_bytes(std::string_view bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

std::string hash_hex(std::string_view bytes) { return fmt::format("{:016x}", hash_bytes(bytes)); }

std::string format_bytes(double bytes) {
  static constexpr const char* kUnits[] = {"B", "KB", "MB", "GB", "TB", "PB"};
  if (bytes < 0) return "-" + format_bytes(-bytes);
  int unit = 0;
  while (bytes >= 999.5 && unit < 5) bytes /= 1000, ++unit;
  if (unit == 0) return fmt::format("{:.0f} B", bytes);
  return fmt::format("{:.{}f} {}", bytes, bytes < 9.995 ? 2 : bytes < 99.95 ? 1 : 0, kUnits[unit]);
}

std::string format_length(int64_t tokens) {
  if (tokens != 0 && tokens % (int64_t{1} << 30) == 0) return fmt::format("{}G", tokens >> 30);
  if (tokens != 0 && tokens % (int64_t{1} << 20) == 0) return fmt::format("{}M", tokens >> 20);
  if (tokens != 0 && tokens % (int64_t{1} << 10) == 0) return fmt::format("{}K", tokens >> 10);
  return fmt::format("{}", tokens);
}

bool parse_length(std::string_view text, int64_t* tokens) {
  int shift = 0;
  if (!text.empty()) {
    const char last = text.back();
    shift = last == 'K' || last == 'k' ? 10 : last == 'M' || last == 'm' ? 20 : last == 'G' || last == 'g' ? 30 : 0;
    if (shift != 0) text.remove_suffix(1);
  }
  if (text.empty() || text.front() < '0' || text.front() > '9') return false;
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return false;
  int64_t result = 0;
  if (__builtin_mul_overflow(value, int64_t{1} << shift, &result)) return false;
  *tokens = result;
  return true;
}

std::string format_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0 || seconds > 1e12) return "?";
  if (seconds < 59.95) return fmt::format("{:.1f}s", seconds);
  const int64_t whole = std::llround(seconds);
  if (whole < 3600) return fmt::format("{}m{:02}s", whole / 60, whole % 60);
  const int64_t minutes = whole / 60;
  if (minutes < 48 * 60) return fmt::format("{}h{:02}m", minutes / 60, minutes % 60);
  return fmt::format("{}d{:02}h", minutes / (24 * 60), minutes / 60 % 24);
}

}  // namespace cairn
