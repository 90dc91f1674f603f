// Reader and writer of the safetensors format (8-byte little-endian header length, JSON header, data), torch-free.
// The reader treats the file as hostile: every size, offset and shape is checked before anything is allocated or mapped.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cairn/core/files.h"

namespace cairn {

enum class Dtype { kF64, kF32, kBF16, kF16, kI64, kI32, kI16, kI8, kU8, kBool };
int64_t dtype_size(Dtype dtype);           // bytes
std::string_view dtype_name(Dtype dtype);  // "F32", as in the file

struct TensorInfo {
  Dtype dtype = Dtype::kF32;
  std::vector<int64_t> shape;
  int64_t begin = 0, end = 0;  // bytes from the start of the data part
};

// A mapped safetensors file. UserError for anything malformed.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const fs::path& path);
  const std::map<std::string, TensorInfo>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  bool contains(const std::string& name) const { return tensors_.count(name) != 0; }
  const TensorInfo& info(const std::string& name) const;         // UserError if absent
  std::span<const uint8_t> data(const std::string& name) const;  // valid while this object lives; may be unaligned
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
  std::unique_ptr<MappedFile> file_;
  std::map<std::string, TensorInfo> tensors_;
  std::map<std::string, std::string> metadata_;
  int64_t data_begin_ = 0;
};

struct TensorToWrite {
  std::string name;
  Dtype dtype = Dtype::kF32;
  std::vector<int64_t> shape;
  std::span<const uint8_t> data;  // contiguous, row-major; size must match
};

// Writes atomically; tensors in the given order and without holes between them (the format's own library refuses holes); the header is
// padded with spaces so that the data part begins at a multiple of 64 bytes.
void write_safetensors(const fs::path& path, const std::vector<TensorToWrite>& tensors, const std::map<std::string, std::string>& metadata);

}  // namespace cairn
