#include "cairn/core/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "cairn/core/error.h"
#include "cairn/core/json.h"
#include "cairn/core/random.h"
#include "core/temp_folder.h"

namespace cairn {
namespace {

using ::testing::HasSubstr;

std::string with_length(uint64_t length, const std::string& rest) {
  std::string bytes(8, '\0');
  for (int i = 0; i < 8; ++i) bytes[static_cast<size_t>(i)] = static_cast<char>(length >> (8 * i));
  return bytes + rest;
}
std::string file_of(const std::string& header, const std::string& data = {}) { return with_length(header.size(), header + data); }

std::string error_of(const std::string& bytes) {
  TempFolder folder(quick_disk());
  write_quickly(folder / "x.safetensors", bytes);
  return message_of<UserError>([&] { SafetensorsFile file(folder / "x.safetensors"); });
}

// One F32 tensor of two numbers with its three fields replaced.
std::string one(const std::string& dtype, const std::string& shape, const std::string& offsets, int64_t data_bytes = 8) {
  return file_of(R"({"t":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}",
                 std::string(data_bytes, 'x'));
}

TEST(Safetensors, RoundTrip) {
  for (uint64_t round = 0; round < 12; ++round) {
    Random random(20260102, round);
    TempFolder folder;
    std::vector<std::string> data;
    std::vector<TensorToWrite> tensors;
    data.reserve(8);
    for (int64_t i = 0, count = random.below(8); i < count; ++i) {
      TensorToWrite tensor{fmt::format("layer.{}.\"w\" \u00e9", i), static_cast<Dtype>(random.below(10)), {}, {}};
      int64_t bytes = dtype_size(tensor.dtype);
      for (int64_t d = random.below(4); d > 0; --d) {
        tensor.shape.push_back(random.below(5));
        bytes *= tensor.shape.back();
      }
      data.emplace_back();
      for (int64_t b = 0; b < bytes; ++b) data.back() += static_cast<char>(random.below(256));
      tensor.data = {reinterpret_cast<const uint8_t*>(data.back().data()), data.back().size()};
      tensors.push_back(tensor);
    }
    std::map<std::string, std::string> metadata;
    if (random.chance(0.5)) metadata = {{"format", "pt"}, {"note", "a\nb"}};
    write_safetensors(folder / "x", tensors, metadata);
    const SafetensorsFile file(folder / "x");
    ASSERT_TRUE(file.tensors().size() == tensors.size());
    ASSERT_TRUE(file.metadata() == metadata);
    for (const TensorToWrite& tensor : tensors) {
      ASSERT_TRUE(file.contains(tensor.name));
      ASSERT_TRUE(file.info(tensor.name).dtype == tensor.dtype);
      ASSERT_TRUE(file.info(tensor.name).shape == tensor.shape);
      const auto read = file.data(tensor.name);
      ASSERT_TRUE(std::equal(read.begin(), read.end(), tensor.data.begin(), tensor.data.end()));
    }
    // The data part begins at a multiple of 64 bytes, so that it can be used in place.
    const std::string bytes = read_file(folder / "x");
    uint64_t header = 0;
    std::memcpy(&header, bytes.data(), 8);
    ASSERT_TRUE((8 + header) % 64 == 0);
  }
}

TEST(Safetensors, LayoutIsTheFormat) {
  // Byte by byte as the format's description says; a file written by other programs.
  TempFolder folder;
  const float values[2] = {1.5f, -2.0f};
  std::string data(reinterpret_cast<const char*>(values), 8);
  write_file(
      folder / "x",
      file_of(
          R"({"__metadata__":{"a":"b"},"w":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"e":{"dtype":"I8","shape":[0],"data_offsets":[8,8]}}   )",
          data));
  const SafetensorsFile file(folder / "x");
  EXPECT_EQ(file.info("w").shape, (std::vector<int64_t>{2, 1}));
  EXPECT_EQ(std::memcmp(file.data("w").data(), values, 8), 0);
  EXPECT_EQ(file.data("e").size(), 0u);
  EXPECT_EQ(file.metadata().at("a"), "b");
  EXPECT_THAT(message_of<UserError>([&] { file.info("missing"); }), HasSubstr("has no tensor 'missing'"));
  EXPECT_EQ(dtype_name(Dtype::kBF16), "BF16");
}

TEST(Safetensors, BrokenSizes) {
  EXPECT_THAT(error_of(""), HasSubstr("not a safetensors file: it has 0 bytes"));
  EXPECT_THAT(error_of("1234567"), HasSubstr("it has 7 bytes"));
  EXPECT_THAT(error_of(with_length(uint64_t{1} << 60, "{}")), HasSubstr("claims 1152921504606846976 bytes"));
  EXPECT_THAT(error_of(with_length(~uint64_t{0}, "{}")), HasSubstr("claims 18446744073709551615 bytes"));
  EXPECT_THAT(error_of(with_length(100, "{}")), HasSubstr("cut off: its header claims 100 bytes, but only 2 follow"));
  EXPECT_THAT(error_of(with_length(0, "")), HasSubstr("not a JSON object"));
}

TEST(Safetensors, BrokenHeaders) {
  EXPECT_THAT(error_of(file_of("[]")), HasSubstr("not a JSON object"));
  EXPECT_THAT(error_of(file_of(" {}")), HasSubstr("not a JSON object"));
  EXPECT_THAT(error_of(file_of("{")), HasSubstr("not valid JSON"));
  EXPECT_THAT(error_of(file_of("{} x")), HasSubstr("not valid JSON"));
  EXPECT_THAT(error_of(file_of("{\"\xff\":1}")), HasSubstr("not valid JSON"));
  EXPECT_THAT(error_of(file_of(R"({"a":)" + std::string(1 << 20, '['))), HasSubstr("nested more than 8 deep"));
  EXPECT_THAT(error_of(file_of(R"({"a":)" + std::string(1 << 20, '{'))), HasSubstr("not valid JSON"));
  EXPECT_THAT(error_of(file_of(R"({"__metadata__":[]})")), HasSubstr("must be an object of strings"));
  EXPECT_THAT(error_of(file_of(R"({"__metadata__":{"a":1}})")), HasSubstr("'a' is not one"));
  const std::string tensor = R"({"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  EXPECT_THAT(error_of(file_of(R"({"a":)" + tensor + R"(,"a":)" + tensor + "}", "x")), HasSubstr("the key 'a' occurs twice"));
  EXPECT_THAT(error_of(file_of(R"({"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "x")),
              HasSubstr("'dtype' occurs twice"));
  EXPECT_THAT(error_of(file_of(R"({"a":5})")), HasSubstr("tensor 'a': must be an object"));
  EXPECT_THAT(error_of(file_of(R"({"a":null})")), HasSubstr("tensor 'a': must be an object"));
  EXPECT_THAT(error_of(file_of(R"({"a":{}})")), HasSubstr("'dtype' is missing"));
}

TEST(Safetensors, BrokenTensors) {
  EXPECT_EQ(error_of(one(R"("F32")", "[2]", "[0,8]")), "(nothing was thrown)");
  EXPECT_THAT(error_of(one("5", "[2]", "[0,8]")), HasSubstr("'dtype' must be a string"));
  EXPECT_THAT(error_of(one(R"("F33")", "[2]", "[0,8]")), HasSubstr("the dtype 'F33' is not supported"));
  EXPECT_THAT(error_of(one(R"("f32")", "[2]", "[0,8]")), HasSubstr("not supported"));
  EXPECT_THAT(error_of(one(R"("F32")", "2", "[0,8]")), HasSubstr("'shape' must be a list"));
  for (const char* shape :
       {"[-2]", "[2.0]", "[\"2\"]", "[true]", "[null]", "[[2]]", "[18446744073709551615]", "[1e3]", "[99999999999999999999]", "[-0]"}) {
    EXPECT_THAT(error_of(one(R"("F32")", shape, "[0,8]")), HasSubstr("must be an integer from 0 to 2^63 - 1")) << shape;
  }
  for (const char* offsets : {"[0]", "[0,8,8]", "{}", "8", "null", "[]"}) {
    EXPECT_THAT(error_of(one(R"("F32")", "[2]", offsets)), HasSubstr("must be a list of two numbers")) << offsets;
  }
  for (const char* offsets : {"[-8,0]", "[0,8.0]", "[0,\"8\"]", "[0,18446744073709551615]"}) {
    EXPECT_THAT(error_of(one(R"("F32")", "[2]", offsets)), HasSubstr("must be an integer")) << offsets;
  }
  EXPECT_THAT(error_of(one(R"("F32")", "[4]", "[0,16]")), HasSubstr("not inside the 8 bytes of data"));
  EXPECT_THAT(error_of(one(R"("F32")", "[2]", "[8,0]")), HasSubstr("not inside"));
  EXPECT_THAT(error_of(one(R"("F32")", "[2]", "[9223372036854775800,9223372036854775807]")), HasSubstr("not inside"));
  EXPECT_THAT(error_of(one(R"("F32")", "[3]", "[0,8]")), HasSubstr("need 12 bytes, but the offsets hold 8"));
  EXPECT_THAT(error_of(one(R"("F32")", "[]", "[0,8]")), HasSubstr("need 4 bytes"));
  // Products that wrap around to the right number of bytes.
  EXPECT_THAT(error_of(one(R"("F32")", "[4611686018427387904,4]", "[0,8]")), HasSubstr("the shape is too large"));
  EXPECT_THAT(error_of(one(R"("F32")", "[4294967296,4294967296,2]", "[0,8]")), HasSubstr("the shape is too large"));
  EXPECT_THAT(error_of(one(R"("F32")", "[4611686018427387906]", "[0,8]")), HasSubstr("the shape is too large"));
}

TEST(Safetensors, HolesAndOverlaps) {
  auto two = [](const std::string& a, const std::string& b, int64_t data) {
    return file_of(
        R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)" + a + R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)" + b + "}}",
        std::string(data, 'x'));
  };
  EXPECT_EQ(error_of(two("[0,4]", "[4,8]", 8)), "(nothing was thrown)");
  EXPECT_EQ(error_of(two("[4,8]", "[0,4]", 8)), "(nothing was thrown)");
  EXPECT_THAT(error_of(two("[0,4]", "[2,6]", 6)), HasSubstr("overlap at byte 2"));
  EXPECT_THAT(error_of(two("[0,4]", "[0,4]", 4)), HasSubstr("overlap"));
  EXPECT_THAT(error_of(two("[0,4]", "[5,9]", 9)), HasSubstr("leave a hole at byte 4"));
  EXPECT_THAT(error_of(two("[1,5]", "[5,9]", 9)), HasSubstr("leave a hole at byte 0"));
  EXPECT_THAT(error_of(two("[0,4]", "[4,8]", 10)), HasSubstr("2 bytes of data belong to no tensor"));
  EXPECT_THAT(error_of(file_of("{}", "x")), HasSubstr("1 bytes of data belong to no tensor"));
  EXPECT_EQ(error_of(file_of("{}")), "(nothing was thrown)");
}

std::string good_file() {
  TempFolder folder;
  const std::string bytes(64, 'd');
  const std::span<const uint8_t> data(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
  write_safetensors(
      folder / "x",
      {{"w", Dtype::kF32, {4, 4}, data}, {"b", Dtype::kBF16, {8}, data.first(16)}, {"empty", Dtype::kI64, {0, 3}, data.first(0)}},
      {{"k", "v"}});
  return read_file(folder / "x");
}

TEST(Safetensors, EveryTruncationIsAnError) {
  const std::string good = good_file();
  for (size_t size = 0; size < good.size(); ++size) EXPECT_NE(error_of(good.substr(0, size)), "(nothing was thrown)") << size;
}

// Whatever the bytes: either a UserError, or a file all of whose tensors lie inside it. Anything else (crash, other exception, huge
// allocation) fails.
TEST(Safetensors, RandomMutations) {
  const std::string good = good_file();
  const std::string tokens[] = {
      "-1",      "1e99", "9223372036854775807", "18446744073709551616", "null", "[", "]", "{", "}", "\"", ",", ":", "0", "F64",
      "\\u0000", "\xff"};
  TempFolder folder(quick_disk());
  Random random(20260101, 0);
  int accepted = 0;
  for (int round = 0; round < 6000; ++round) {
    std::string bytes = good;
    for (int64_t change = 1 + random.below(3); change > 0; --change) {
      // Mostly in the header: that is where decisions are made.
      const size_t place = static_cast<size_t>(
          random.below(random.chance(0.9) ? static_cast<int64_t>(bytes.size()) - 80 : static_cast<int64_t>(bytes.size())));
      switch (random.below(5)) {
        case 0:
          bytes[place] = static_cast<char>(random.below(256));
          break;
        case 1:
          bytes[place] = static_cast<char>(bytes[place] ^ (1 << random.below(8)));
          break;
        case 2:
          bytes.erase(place, static_cast<size_t>(1 + random.below(8)));
          break;
        case 3:
          bytes.insert(place, tokens[random.below(std::size(tokens))]);
          break;
        case 4:
          bytes.replace(place, 1, tokens[random.below(std::size(tokens))]);
          break;
      }
      if (bytes.size() < 100) bytes.resize(100, ' ');
    }
    if (random.chance(0.7)) {  // keep the length honest, so that the JSON is reached
      const size_t header = bytes.size() - std::min<size_t>(bytes.size() - 8, 80) - 8;
      bytes = with_length(header, bytes.substr(8));
    }
    const fs::path path = folder / "x";
    write_quickly(path, bytes);
    try {
      const SafetensorsFile file(path);
      ++accepted;
      uint64_t sum = 0;
      for (const auto& [name, info] : file.tensors()) {
        const auto data = file.data(name);
        ASSERT_EQ(static_cast<int64_t>(data.size()), info.end - info.begin);
        for (uint8_t byte : data) sum += byte;
      }
      ASSERT_LE(sum, bytes.size() * 255);
    } catch (const UserError&) {
    }
  }
  EXPECT_GT(accepted, 50);  // mutations of names, metadata and data stay valid: the loop reaches the reading side, too
}

TEST(SafetensorsDeathTest, WriterChecksItsCaller) {
  const uint8_t byte[4] = {};
  EXPECT_DEATH(write_safetensors("/nonexistent/x", {{"a", Dtype::kF32, {2}, std::span(byte)}}, {}), "4 bytes for 8");
  EXPECT_DEATH(
      write_safetensors("/nonexistent/x", {{"a", Dtype::kF32, {1}, std::span(byte)}, {"a", Dtype::kF32, {1}, std::span(byte)}}, {}),
      "tensor name 'a'");
}

}  // namespace
}  // namespace cairn
