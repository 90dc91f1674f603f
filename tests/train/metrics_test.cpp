#include "cairn/train/metrics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "cairn/core/error.h"
#include "train/tiny.h"

namespace cairn {
namespace {

TEST(Crc32c, KnownValues) {
  // RFC 3720, appendix B.4, and the usual check value.
  EXPECT_EQ(crc32c("123456789"), 0xe3069283U);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aaU);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43U);
  EXPECT_EQ(crc32c(""), 0U);
}

TEST(TfRecord, Layout) {
  const std::string record = tf_record("abc");
  ASSERT_EQ(record.size(), 8 + 4 + 3 + 4U);
  uint64_t length = 0;
  uint32_t length_crc = 0, data_crc = 0;
  std::memcpy(&length, record.data(), 8);
  std::memcpy(&length_crc, record.data() + 8, 4);
  std::memcpy(&data_crc, record.data() + 15, 4);
  EXPECT_EQ(length, 3U);
  EXPECT_EQ(length_crc, masked_crc32c(record.substr(0, 8)));
  EXPECT_EQ(data_crc, masked_crc32c("abc"));
}

TEST(Event, BytesOfAScalar) {
  // wall_time = 1.0 (field 1, fixed64), step = 300 (field 2, varint), summary (field 5) { value (1) { tag (1) = "a", simple_value (2) = 2.0
  // } }
  const std::string expected("\x09\x00\x00\x00\x00\x00\x00\xf0\x3f\x10\xac\x02\x2a\x0a\x0a\x08\x0a\x01\x61\x15\x00\x00\x00\x40", 24);
  EXPECT_EQ(scalar_event(1.0, 300, {{"a", 2.0}, {"b", std::numeric_limits<double>::quiet_NaN()}}), expected);
  const std::string version(
      "\x09\x00\x00\x00\x00\x00\x00\xf0\x3f\x1a\x0d"
      "brain.Event:2",
      24);
  EXPECT_EQ(version_event(1.0), version);
}

TEST(AppendFile, CutsWhatStandsBehindTheKeptPart) {
  testing::TemporaryFolder folder;
  const fs::path path = folder.path() / "log";
  {
    AppendFile file(path, 0);
    file.append("one\n");
    file.append("two\n");
    EXPECT_EQ(file.size(), 8);
  }
  {
    AppendFile file(path, 4);
    file.append("three\n");
  }
  EXPECT_EQ(read_file(path), "one\nthree\n");
  EXPECT_THROW(AppendFile(path, 100), UserError);
  EXPECT_THROW(AppendFile(folder.path() / "no" / "log", 0), UserError);
}

}  // namespace
}  // namespace cairn
