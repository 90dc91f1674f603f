// What the tests of extent files share.
#pragma once

#include <cstring>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "cairn/core/error.h"
#include "cairn/core/extent_file.h"
#include "core/temp_folder.h"

namespace cairn {

inline std::span<const uint8_t> as_bytes(const std::string& text) { return {reinterpret_cast<const uint8_t*>(text.data()), text.size()}; }

inline std::string content(const ExtentFile& file, int64_t id) {
  const auto bytes = file.map(id);
  return std::string(reinterpret_cast<const char*>(bytes.get()), static_cast<size_t>(file.extent(id).bytes));
}

// Bytes that tell which extent of which commit they are; sizes around the alignment.
inline std::string pattern(int64_t seed, int64_t bytes) {
  std::string text(static_cast<size_t>(bytes), '\0');
  uint64_t state = static_cast<uint64_t>(seed) * 0x9E3779B97F4A7C15u + 1;
  for (char& c : text) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    c = static_cast<char>(state >> 56);
  }
  return text;
}

inline std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const UserError& error) {
    return error.what();
  } catch (const ResourceError& error) {
    return std::string("ResourceError: ") + error.what();
  }
  return "(nothing was thrown)";
}

}  // namespace cairn
