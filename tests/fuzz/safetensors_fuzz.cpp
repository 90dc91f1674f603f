// SafetensorsFile: the bytes as they are, and once more with a header length that fits the JSON.
#include "cairn/core/safetensors.h"
#include "core/temp_folder.h"
#include "fuzz/fuzz.h"

namespace cairn::fuzz {
namespace {

void read_all(std::string_view bytes) {
  static MemoryFile memory;
  try {
    const SafetensorsFile file(memory.with(bytes));
    int64_t total = 0;
    volatile uint8_t sum = 0;
    for (const auto& [name, info] : file.tensors()) {
      int64_t numbers = 1;
      for (const int64_t size : info.shape) numbers *= size;
      const auto data = file.data(name);
      CAIRN_CHECK(static_cast<int64_t>(data.size()) == numbers * dtype_size(info.dtype), "{}", name);
      total += static_cast<int64_t>(data.size());
      for (const uint8_t byte : data) sum = static_cast<uint8_t>(sum + byte);
    }
    CAIRN_CHECK(total <= static_cast<int64_t>(bytes.size()) - 8, "tensors of {} bytes in {}", total, bytes.size());
    ++accepted;
  } catch (const UserError&) {
  }
}

}  // namespace

std::vector<std::string> seeds() {
  const std::string bytes(256, 'd');
  const auto data = [&](size_t size) { return std::span(reinterpret_cast<const uint8_t*>(bytes.data()), size); };
  std::vector<std::string> files;
  TempFolder folder;
  auto add = [&](const std::vector<TensorToWrite>& tensors, const std::map<std::string, std::string>& metadata) {
    write_safetensors(folder / "x", tensors, metadata);
    files.push_back(read_file(folder / "x"));
  };
  add({}, {});
  add({{"w", Dtype::kF32, {4, 4}, data(64)}, {"b", Dtype::kBF16, {8}, data(16)}, {"empty", Dtype::kI64, {0, 3}, data(0)}}, {{"k", "v"}});
  add({{"average", Dtype::kF32, {7}, data(28)},
       {"updates", Dtype::kF32, {}, data(4)},
       {"guard", Dtype::kF64, {4}, data(32)},
       {"flags", Dtype::kBool, {2, 3, 1}, data(6)},
       {"bytes", Dtype::kU8, {5}, data(5)}},
      {{"format", "cairn.optimizer"}, {"version", "1"}});
  return files;
}

std::vector<std::string> words() {
  return {"\"__metadata__\"",
          "\"dtype\"",
          "\"shape\"",
          "\"data_offsets\"",
          "\"F64\"",
          "\"F32\"",
          "\"BF16\"",
          "\"F16\"",
          "\"I64\"",
          "\"I8\"",
          "\"BOOL\"",
          "[0,0]",
          "[]",
          "{}",
          "null",
          "-1",
          "1e3",
          "9223372036854775807",
          "18446744073709551615",
          "\\u0000",
          "\\ud800",
          "\xff",
          ",",
          ":"};
}

}  // namespace cairn::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace cairn::fuzz;
  std::string bytes(reinterpret_cast<const char*>(data), size);
  read_all(bytes);
  const size_t brace = bytes.rfind('}');
  if (size >= 9 && brace != std::string::npos && brace >= 8) {
    // The data behind the JSON keeps its size, whatever a mutation did to the text before it.
    put<uint64_t>(&bytes, 0, brace + 1 - 8);
    read_all(bytes);
  }
  return 0;
}
