// Fuzzing of the readers of files that others may have made. Each *_fuzz.cpp has one reader: LLVMFuzzerTestOneInput() (the entry that
// libFuzzer calls), valid files to start from and words that mutations may use. Two programs are made of each: with libFuzzer
// (scripts/fuzz.sh, `make fuzz`), and with driver.cpp, which mutates by itself and runs as an ordinary test of the sanitized build.
//
// Whatever the bytes, a reader gives a UserError or a state in which everything that may be asked for is there; and what the program writes
// of that state reads back equal. Everything else (signal, sanitizer report, other exception, CAIRN_CHECK) is a finding.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "cairn/core/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace cairn::fuzz {

std::vector<std::string> seeds();  // valid inputs
std::vector<std::string> words();  // a dictionary

// Inputs that were read to their end without an error: a fuzzer whose inputs are all refused at the door tests the door.
inline int64_t accepted = 0;

// A file in memory for readers that take a path.
class MemoryFile {
 public:
  MemoryFile() : descriptor_(memfd_create("fuzz", MFD_CLOEXEC)), path_("/proc/self/fd/" + std::to_string(descriptor_)) {
    CAIRN_CHECK(descriptor_ >= 0);
  }
  ~MemoryFile() { close(descriptor_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  // Nothing may have the old bytes mapped.
  const std::filesystem::path& with(std::string_view bytes) {
    CAIRN_CHECK(ftruncate(descriptor_, 0) == 0 && pwrite(descriptor_, bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()));
    return path_;
  }

 private:
  int descriptor_;
  std::filesystem::path path_;
};

// Little-endian numbers at any place; a place outside is a bug of the fuzzer.
template <typename T>
T get(std::string_view bytes, size_t at) {
  T value;
  CAIRN_CHECK(at + sizeof(T) <= bytes.size());
  std::memcpy(&value, bytes.data() + at, sizeof(T));
  return value;
}
template <typename T>
void put(std::string* bytes, size_t at, T value) {
  CAIRN_CHECK(at + sizeof(T) <= bytes->size());
  std::memcpy(bytes->data() + at, &value, sizeof(T));
}

}  // namespace cairn::fuzz
