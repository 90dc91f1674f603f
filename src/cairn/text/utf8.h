// UTF-8: validation with the offset of the first mistake, decoding of single characters, repair for display.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace cairn {

// Byte offset of the first byte that does not belong to a well-formed character (overlong forms, surrogates, values above U+10FFFF and
// characters that the end cuts off count as mistakes), or -1 if all of `text` is valid UTF-8.
int64_t find_invalid_utf8(std::string_view text);

// How many bytes at the end of `text` may be the beginning of a character that is cut off (0 to 3).
int64_t incomplete_utf8_tail(std::string_view text);

// `text` with every malformed byte replaced by U+FFFD: for terminals, JSON and HTML. Decoded tokens may end in the middle of a character.
std::string repair_utf8(std::string_view text);

// UserError naming `what` and the byte offset (plus `base`) unless `text` is valid UTF-8.
void require_utf8(std::string_view text, std::string_view what, int64_t base = 0);

// The character at `at`, which must be its first byte in valid UTF-8; `length` receives its bytes.
inline char32_t utf8_at(std::string_view text, size_t at, int* length) {
  const auto byte = [&](size_t i) { return static_cast<char32_t>(static_cast<unsigned char>(text[at + i])); };
  const char32_t first = byte(0);
  if (first < 0x80) {
    *length = 1;
    return first;
  }
  if (first < 0xE0) {
    *length = 2;
    return (first & 0x1F) << 6 | (byte(1) & 0x3F);
  }
  if (first < 0xF0) {
    *length = 3;
    return (first & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
  }
  *length = 4;
  return (first & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
}

}  // namespace cairn
