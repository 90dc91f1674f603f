#include "cairn/text/utf8.h"

#include <cstring>

#include "cairn/core/error.h"

namespace cairn {
namespace {

// Bytes of the well-formed character at the beginning of data[0..size), 0 if there is none. The table of the Unicode standard (3.9, table
// 3-7).
int well_formed_length(const unsigned char* data, int64_t size) {
  const unsigned char first = data[0];
  if (first < 0x80) return 1;
  const auto continues = [&](int i, unsigned char low = 0x80, unsigned char high = 0xBF) {
    return i < size && data[i] >= low && data[i] <= high;
  };
  if (first >= 0xC2 && first <= 0xDF) return continues(1) ? 2 : 0;
  if (first >= 0xE0 && first <= 0xEF) {
    const unsigned char low = first == 0xE0 ? 0xA0 : 0x80;   // no overlong forms
    const unsigned char high = first == 0xED ? 0x9F : 0xBF;  // no surrogates
    return continues(1, low, high) && continues(2) ? 3 : 0;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    const unsigned char low = first == 0xF0 ? 0x90 : 0x80;
    const unsigned char high = first == 0xF4 ? 0x8F : 0xBF;  // nothing above U+10FFFF
    return continues(1, low, high) && continues(2) && continues(3) ? 4 : 0;
  }
  return 0;
}

}  // namespace

int64_t find_invalid_utf8(std::string_view text) {
  const auto* data = reinterpret_cast<const unsigned char*>(text.data());
  const auto size = static_cast<int64_t>(text.size());
  int64_t at = 0;
  while (at < size) {
    if (at + 8 <= size) {  // most text is ASCII: eight bytes at once
      uint64_t eight;
      std::memcpy(&eight, data + at, 8);
      if ((eight & 0x8080808080808080ull) == 0) {
        at += 8;
        continue;
      }
    }
    const int length = well_formed_length(data + at, size - at);
    if (length == 0) return at;
    at += length;
  }
  return -1;
}

int64_t incomplete_utf8_tail(std::string_view text) {
  const auto size = static_cast<int64_t>(text.size());
  for (int64_t back = 1; back <= 3 && back <= size; ++back) {
    const auto byte = static_cast<unsigned char>(text[size - back]);
    if (byte >= 0xC0) {
      const int64_t needed = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : 2;
      return needed > back ? back : 0;
    }
    if (byte < 0x80) return 0;
  }
  return 0;
}

std::string repair_utf8(std::string_view text) {
  std::string repaired;
  repaired.reserve(text.size());
  const auto* data = reinterpret_cast<const unsigned char*>(text.data());
  for (int64_t at = 0, size = static_cast<int64_t>(text.size()); at < size;) {
    const int length = well_formed_length(data + at, size - at);
    if (length == 0) {
      repaired += "\xEF\xBF\xBD";
      ++at;
    } else {
      repaired.append(text.substr(at, length));
      at += length;
    }
  }
  return repaired;
}

void require_utf8(std::string_view text, std::string_view what, int64_t base) {
  const int64_t at = find_invalid_utf8(text);
  if (at >= 0)
    throw UserError("{} is not UTF-8: byte 0x{:02X} at byte offset {} starts no valid character; convert it first (iconv -t UTF-8)", what,
                    static_cast<unsigned char>(text[at]), base + at);
}

}  // namespace cairn
