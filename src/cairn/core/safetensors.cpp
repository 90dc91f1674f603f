#include "cairn/core/safetensors.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <set>

#include "cairn/core/error.h"
#include "cairn/core/json.h"

namespace cairn {
namespace {

using Json = nlohmann::json;

// Far more than any model's header (about 100 bytes a tensor), far less than what parsing could not hold.
constexpr int64_t kMaxHeaderBytes = int64_t{16} << 20;
constexpr int64_t kDataAlignment = 64;

struct DtypeRow {
  std::string_view name;
  int64_t size;
};
constexpr DtypeRow kDtypes[] = {{"F64", 8}, {"F32", 4}, {"BF16", 2}, {"F16", 2}, {"I64", 8},
                                {"I32", 4}, {"I16", 2}, {"I8", 1},   {"U8", 1},  {"BOOL", 1}};

const DtypeRow& row(Dtype dtype) { return kDtypes[static_cast<size_t>(dtype)]; }

Dtype parse_dtype(const std::string& name, const std::string& where) {
  for (size_t i = 0; i < std::size(kDtypes); ++i) {
    if (kDtypes[i].name == name) return static_cast<Dtype>(i);
  }
  throw UserError("{}: the dtype '{}' is not supported", where, name.substr(0, 40));
}

int64_t parse_count(const Json& value, const std::string& where, const char* what) {
  // Only plain non-negative integers: 1.0, -1, true and numbers of 2^63 or more are something else.
  if (!value.is_number_unsigned() || value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    throw UserError("{}: {} must be an integer from 0 to 2^63 - 1", where, what);
  }
  return static_cast<int64_t>(value.get<uint64_t>());
}

// Bytes of a dense tensor, or an error when they cannot be counted in 63 bits.
int64_t tensor_bytes(Dtype dtype, const std::vector<int64_t>& shape, const std::string& where) {
  int64_t bytes = dtype_size(dtype);
  for (int64_t size : shape) {
    if (__builtin_mul_overflow(bytes, size, &bytes)) throw UserError("{}: the shape is too large", where);
  }
  return bytes;
}

const Json& member(const Json& object, const char* key, const std::string& where) {
  const auto found = object.find(key);
  if (found == object.end()) throw UserError("{}: '{}' is missing", where, key);
  return *found;
}

TensorInfo parse_tensor(const Json& value, const std::string& where, int64_t data_bytes) {
  if (!value.is_object()) throw UserError("{}: must be an object with dtype, shape and data_offsets", where);
  TensorInfo info;
  const Json& dtype = member(value, "dtype", where);
  if (!dtype.is_string()) throw UserError("{}: 'dtype' must be a string", where);
  info.dtype = parse_dtype(dtype.get<std::string>(), where);
  const Json& shape = member(value, "shape", where);
  if (!shape.is_array()) throw UserError("{}: 'shape' must be a list", where);
  for (const Json& size : shape) info.shape.push_back(parse_count(size, where, "each size of 'shape'"));
  const Json& offsets = member(value, "data_offsets", where);
  if (!offsets.is_array() || offsets.size() != 2) throw UserError("{}: 'data_offsets' must be a list of two numbers", where);
  info.begin = parse_count(offsets[0], where, "'data_offsets'");
  info.end = parse_count(offsets[1], where, "'data_offsets'");
  if (info.begin > info.end || info.end > data_bytes) {
    throw UserError("{}: the offsets {} to {} are not inside the {} bytes of data (is the file cut off?)", where, info.begin, info.end,
                    data_bytes);
  }
  const int64_t bytes = tensor_bytes(info.dtype, info.shape, where);
  if (bytes != info.end - info.begin) {
    throw UserError("{}: dtype and shape need {} bytes, but the offsets hold {}", where, bytes, info.end - info.begin);
  }
  return info;
}

// Tensors must cover the data part exactly once, as the format demands: no hidden bytes, no shared ones.
void check_coverage(const std::map<std::string, TensorInfo>& tensors, int64_t data_bytes, const std::string& file) {
  std::vector<std::pair<int64_t, int64_t>> ranges;
  for (const auto& [name, info] : tensors) ranges.emplace_back(info.begin, info.end);
  std::sort(ranges.begin(), ranges.end());
  int64_t at = 0;
  for (const auto& [begin, end] : ranges) {
    if (begin != at)
      throw UserError("{}: tensors {} at byte {} of the data", file, begin < at ? "overlap" : "leave a hole", std::min(at, begin));
    at = end;
  }
  if (at != data_bytes) throw UserError("{}: {} bytes of data belong to no tensor", file, data_bytes - at);
}

}  // namespace

int64_t dtype_size(Dtype dtype) { return row(dtype).size; }
std::string_view dtype_name(Dtype dtype) { return row(dtype).name; }

SafetensorsFile::SafetensorsFile(const fs::path& path) : path_(path), file_(std::make_unique<MappedFile>(path)) {
  const std::string file = path.string();
  const std::span<const uint8_t> bytes = file_->bytes();
  const int64_t size = static_cast<int64_t>(bytes.size());
  if (size < 8) throw UserError("{}: not a safetensors file: it has {} bytes, the header alone needs more", file, size);
  uint64_t header_bytes = 0;
  for (int i = 7; i >= 0; --i) header_bytes = header_bytes << 8 | bytes[static_cast<size_t>(i)];
  if (header_bytes > static_cast<uint64_t>(kMaxHeaderBytes)) {
    throw UserError("{}: not a safetensors file: its header claims {} bytes; at most {} are allowed", file, header_bytes, kMaxHeaderBytes);
  }
  if (header_bytes > static_cast<uint64_t>(size - 8)) {
    throw UserError("{}: cut off: its header claims {} bytes, but only {} follow", file, header_bytes, size - 8);
  }
  data_begin_ = 8 + static_cast<int64_t>(header_bytes);
  const std::string_view header(reinterpret_cast<const char*>(bytes.data()) + 8, header_bytes);
  if (!header.starts_with('{')) throw UserError("{}: not a safetensors file: its header is not a JSON object", file);
  const Json json = parse_json(header, file, 8);
  const int64_t data_bytes = size - data_begin_;
  for (const auto& [name, value] : json.items()) {
    if (name == "__metadata__") {
      if (!value.is_object()) throw UserError("{}: '__metadata__' must be an object of strings", file);
      for (const auto& [key, text] : value.items()) {
        if (!text.is_string()) throw UserError("{}: '__metadata__' must be an object of strings, but '{}' is not one", file, key);
        metadata_[key] = text.get<std::string>();
      }
    } else {
      tensors_[name] = parse_tensor(value, fmt::format("{}: tensor '{}'", file, name), data_bytes);
    }
  }
  check_coverage(tensors_, data_bytes, file);
}

const TensorInfo& SafetensorsFile::info(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) throw UserError("{}: has no tensor '{}'", path_.string(), name);
  return found->second;
}

std::span<const uint8_t> SafetensorsFile::data(const std::string& name) const {
  const TensorInfo& tensor = info(name);
  return file_->bytes().subspan(static_cast<size_t>(data_begin_ + tensor.begin), static_cast<size_t>(tensor.end - tensor.begin));
}

void write_safetensors(const fs::path& path, const std::vector<TensorToWrite>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::set<std::string_view> names;
  int64_t at = 0;
  for (const TensorToWrite& tensor : tensors) {
    CAIRN_CHECK(tensor.name != "__metadata__" && names.insert(tensor.name).second, "tensor name '{}'", tensor.name);
    const int64_t bytes = tensor_bytes(tensor.dtype, tensor.shape, tensor.name);
    CAIRN_CHECK(bytes == static_cast<int64_t>(tensor.data.size()), "tensor '{}': {} bytes for {}", tensor.name, tensor.data.size(), bytes);
    header[tensor.name] = {{"dtype", std::string(dtype_name(tensor.dtype))}, {"shape", tensor.shape}, {"data_offsets", {at, at + bytes}}};
    at += bytes;
  }
  std::string text = header.dump();
  while ((8 + static_cast<int64_t>(text.size())) % kDataAlignment != 0) text += ' ';
  CAIRN_CHECK(static_cast<int64_t>(text.size()) <= kMaxHeaderBytes, "header of {} bytes", text.size());
  uint8_t length[8];
  for (int i = 0; i < 8; ++i) length[i] = static_cast<uint8_t>(text.size() >> (8 * i));
  AtomicFile file(path);
  file.write(length, 8);
  file.write(text.data(), static_cast<int64_t>(text.size()));
  for (const TensorToWrite& tensor : tensors) file.write(tensor.data.data(), static_cast<int64_t>(tensor.data.size()));
  file.commit();
}

}  // namespace cairn
