// Extent files that are broken or made to harm: a UserError, or a state that was committed once; nothing else.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <limits>
#include <optional>

#include "cairn/core/random.h"
#include "core/extent_helpers.h"

namespace cairn {
namespace {

using ::testing::HasSubstr;

struct Image {
  std::string bytes;  // two commits: roots "1" and "2"
  Extent directory;   // of the second
};

Image good_file() {
  TempFolder folder(quick_disk());
  const auto file = ExtentFile::create(folder / "x");
  file->add(as_bytes(pattern(1, 100)));
  file->add(as_bytes(pattern(2, 4097)));
  file->commit("{\"n\":1}");
  file->remove(0);
  file->add(as_bytes(pattern(3, 300)));
  file->add(as_bytes(pattern(4, 10)));
  file->commit("{\"n\":2}");
  Image image{.bytes = read_file(folder / "x"), .directory = {}};
  const ExtentCommit commit = ExtentFile::parse(as_bytes(image.bytes), "x").commit;
  image.directory = {commit.directory_offset, commit.directory_bytes, commit.directory_checksum};
  return image;
}

bool intact(const std::string& bytes, const Extent& extent) {
  return hash_bytes(std::string_view(bytes).substr(static_cast<size_t>(extent.offset), static_cast<size_t>(extent.bytes))) ==
         extent.checksum;
}

// The root that the bytes hold, nothing if a UserError says that they are broken. Extents of an accepted state must be intact.
std::optional<std::string> state_of(const std::string& bytes) {
  try {
    const ExtentContents contents = ExtentFile::parse(as_bytes(bytes), "x");
    for (const Extent& extent : contents.extents) EXPECT_TRUE(extent.bytes == 0 || intact(bytes, extent));
    return contents.root;
  } catch (const UserError& error) {
    EXPECT_THAT(error.what(), HasSubstr("x"));
    return std::nullopt;
  }
}

TEST(ExtentHostile, EveryBitOfHeadersAndDirectory) {
  const Image good = good_file();
  ASSERT_EQ(state_of(good.bytes), "{\"n\":2}");
  int64_t older = 0, detected = 0, harmless = 0;
  auto flip = [&](int64_t place) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string bytes = good.bytes;
      bytes[static_cast<size_t>(place)] = static_cast<char>(bytes[static_cast<size_t>(place)] ^ (1 << bit));
      const auto state = state_of(bytes);
      if (!state) {
        ++detected;
      } else if (*state == "{\"n\":1}") {
        ++older;
      } else {
        ASSERT_EQ(*state, "{\"n\":2}") << "byte " << place << ", bit " << bit;
        ++harmless;
      }
    }
  };
  for (int64_t place = 0; place < kExtentHeadBytes; ++place) flip(place);
  EXPECT_EQ(older, 128 * 8) << "the newest slot, B";
  EXPECT_EQ(harmless, 4096 * 8) << "the older slot, A";
  EXPECT_EQ(detected, (4096 - 128) * 8) << "zeros behind the newest slot";
  for (int64_t place = 0; place < good.directory.bytes; ++place) flip(good.directory.offset + place);
  EXPECT_EQ(older, 128 * 8);
  EXPECT_EQ(detected, (4096 - 128 + good.directory.bytes) * 8);
}

TEST(ExtentHostile, FlippedExtentsAreFound) {
  const Image good = good_file();
  TempFolder folder(quick_disk());
  const fs::path path = folder / "x";
  const auto extents = ExtentFile::parse(as_bytes(good.bytes), "x").extents;
  ASSERT_EQ(extents.size(), 3u);
  for (size_t broken = 0; broken < extents.size(); ++broken) {
    for (int64_t at = 0; at < extents[broken].bytes; at += 1 + extents[broken].bytes / 97) {
      std::string bytes = good.bytes;
      char& byte = bytes[static_cast<size_t>(extents[broken].offset + at)];
      byte = static_cast<char>(byte ^ (1 << at % 8));
      write_quickly(path, bytes);
      const auto file = ExtentFile::open(path, false);
      for (size_t id = 0; id < extents.size(); ++id) {
        const std::string error = error_of([&] { file->verify(static_cast<int64_t>(id)); });
        if (id == broken) {
          EXPECT_THAT(error, HasSubstr(path.string() + ": the checksum of extent " + std::to_string(id)));
        } else {
          EXPECT_EQ(error, "(nothing was thrown)");
        }
      }
    }
  }
}

TEST(ExtentHostile, EveryTruncation) {
  const Image good = good_file();
  TempFolder folder(quick_disk());
  const fs::path path = folder / "x";
  write_quickly(path, good.bytes);
  const int64_t needed = ExtentFile::parse(as_bytes(good.bytes), "x").commit.size;
  for (auto size = static_cast<int64_t>(good.bytes.size()); size >= 0; --size) {
    ASSERT_EQ(truncate(path.c_str(), size), 0);
    const std::string error = error_of([&] { EXPECT_EQ(ExtentFile::open(path, size % 2 == 0)->root(), "{\"n\":2}"); });
    if (size >= needed) {
      EXPECT_EQ(error, "(nothing was thrown)") << size;
    } else if (size >= kExtentHeadBytes) {
      EXPECT_THAT(error, HasSubstr("cut off")) << size;
    } else {
      EXPECT_THAT(error, testing::AnyOf(HasSubstr("cut off"), HasSubstr("is not a memory file"))) << size;
    }
  }
}

// A file with right checksums and any contents.
std::string built(const ExtentCommit& commit, std::span<const Extent> extents, int64_t file_bytes, const std::string& count = {}) {
  std::string directory = extent_directory(extents, "root");
  if (!count.empty()) directory.replace(0, 8, count);
  ExtentCommit right = commit;
  if (right.directory_bytes == -1) right.directory_bytes = static_cast<int64_t>(directory.size());
  right.directory_checksum = hash_bytes(directory);
  std::string bytes(static_cast<size_t>(file_bytes), '\0');
  bytes.replace(static_cast<size_t>(extent_slot_offset(commit.sequence)), 4096, extent_slot(right));
  if (commit.directory_offset >= 0 && commit.directory_offset <= file_bytes - static_cast<int64_t>(directory.size()))
    bytes.replace(static_cast<size_t>(commit.directory_offset), directory.size(), directory);
  return bytes;
}

std::string parse_error(const std::string& bytes) {
  return error_of([&] { ExtentFile::parse(as_bytes(bytes), "x"); });
}

TEST(ExtentHostile, Directories) {
  const int64_t size = 10 * 4096;
  const ExtentCommit commit = {.sequence = 1, .directory_offset = 8192, .directory_bytes = -1, .directory_checksum = 0, .size = size};
  auto with = [&](std::vector<Extent> extents) { return parse_error(built(commit, extents, size)); };
  const std::string fine = "(nothing was thrown)";
  EXPECT_EQ(with({}), fine);
  EXPECT_EQ(with({{12288, 4096, 1}, {16384, 24576, 2}, {0, 0, 0}}), fine);
  EXPECT_THAT(with({{12288, 4097, 1}, {16384, 1, 2}}), HasSubstr("extents overlap at offset 16384"));
  EXPECT_THAT(with({{16384, 1, 1}, {16384, 1, 2}}), HasSubstr("extents overlap at offset 16384"));
  EXPECT_THAT(with({{8192, 1, 1}}), HasSubstr("extents overlap at offset 8192")) << "the directory is there";
  EXPECT_THAT(with({{0, 1, 1}}), HasSubstr("extent 0 has 1 bytes at offset 0"));
  EXPECT_THAT(with({{4096, 1, 1}}), HasSubstr("extent 0 has 1 bytes at offset 4096"));
  EXPECT_THAT(with({{12289, 1, 1}}), HasSubstr("extent 0 has 1 bytes at offset 12289"));
  EXPECT_THAT(with({{12288, size, 1}}), HasSubstr("extent 0 has 40960 bytes at offset 12288"));
  EXPECT_THAT(with({{size, 1, 1}}), HasSubstr("extent 0 has"));
  EXPECT_THAT(with({{12288, -1, 1}}), HasSubstr("extent 0 has 18446744073709551615 bytes"));
  EXPECT_THAT(with({{-4096, 8192, 1}}), HasSubstr("at offset 18446744073709547520"));
  EXPECT_THAT(with({{12288, 0, 0}}), HasSubstr("extent 0 has 0 bytes"));
  EXPECT_THAT(with({{0, 0, 7}}), HasSubstr("extent 0 has 0 bytes"));
  for (const uint64_t count : {uint64_t{1}, uint64_t{1} << 32, ~uint64_t{0}, ~uint64_t{0} / 24, ~uint64_t{0} / 24 + 1}) {
    std::string text(8, '\0');
    std::memcpy(text.data(), &count, 8);
    EXPECT_THAT(parse_error(built(commit, {}, size, text)), HasSubstr(fmt::format("{} extents in a directory of 12 bytes", count)));
  }
}

TEST(ExtentHostile, Headers) {
  const int64_t size = 10 * 4096;
  const ExtentCommit good = {.sequence = 1, .directory_offset = 8192, .directory_bytes = -1, .directory_checksum = 0, .size = size};
  auto with = [&](auto change) {
    ExtentCommit commit = good;
    change(commit);
    return parse_error(built(commit, {}, size));
  };
  EXPECT_EQ(with([](auto&) {}), "(nothing was thrown)");
  EXPECT_THAT(with([](auto& c) { c.size += 1; }), HasSubstr("it has 40960 bytes, but its last commit needs 40961"));
  EXPECT_THAT(with([](auto& c) { c.size = -1; }), HasSubstr("needs 18446744073709551615"));
  EXPECT_THAT(with([](auto& c) { c.size = 8192; }), HasSubstr("a directory of 12 bytes at offset 8192"));
  EXPECT_THAT(with([](auto& c) { c.directory_offset = 4096; }), HasSubstr("at offset 4096"));
  EXPECT_THAT(with([](auto& c) { c.directory_offset = 8200; }), HasSubstr("at offset 8200"));
  EXPECT_THAT(with([](auto& c) { c.directory_offset = -4096; }), HasSubstr("at offset 18446744073709547520"));
  EXPECT_THAT(with([](auto& c) { c.directory_bytes = 7; }), HasSubstr("a directory of 7 bytes"));
  EXPECT_THAT(with([](auto& c) { c.directory_bytes = size; }), HasSubstr("a directory of 40960 bytes"));
  EXPECT_THAT(with([](auto& c) { c.directory_bytes = int64_t{1} << 62; }), HasSubstr("a directory of"));
  EXPECT_THAT(with([](auto& c) { c.directory_bytes = 13; }), HasSubstr("the checksum of its directory disagrees"));
  EXPECT_THAT(with([](auto& c) { c.sequence = 0; }), HasSubstr("commit 0 in header B"));
  EXPECT_EQ(with([](auto& c) { c.sequence = int64_t{1} << 62; }), "(nothing was thrown)");
  EXPECT_THAT(with([](auto& c) { c.sequence = (int64_t{1} << 62) + 2; }), HasSubstr("in header B"));
  EXPECT_THAT(with([](auto& c) { c.sequence = -2; }), HasSubstr("in header B"));
  // Bytes at places that ExtentCommit does not name; the checksum is made right again.
  auto with_byte = [&](size_t place, char value, size_t slot_at) {
    std::string bytes = built(good, {}, size);
    std::string slot = bytes.substr(0, 128);
    slot[place] = value;
    const uint64_t checksum = hash_bytes(slot.substr(0, 120));
    std::memcpy(slot.data() + 120, &checksum, 8);
    bytes.replace(0, 128, std::string(128, '\0')).replace(slot_at, 128, slot);
    return parse_error(bytes);
  };
  EXPECT_EQ(with_byte(8, 1, 0), "(nothing was thrown)");
  EXPECT_THAT(with_byte(8, 2, 0), HasSubstr("version 2, this program reads version 1"));
  EXPECT_THAT(with_byte(12, 1, 0), HasSubstr("reserved bytes"));
  EXPECT_THAT(with_byte(56, 1, 0), HasSubstr("reserved bytes"));
  EXPECT_THAT(with_byte(119, 1, 0), HasSubstr("reserved bytes"));
  EXPECT_THAT(with_byte(8, 1, 4096), HasSubstr("commit 1 in header B"));
  EXPECT_THAT(parse_error(""), HasSubstr("x is not a memory file"));
  EXPECT_THAT(parse_error(std::string(20'000, '\0')), HasSubstr("x is not a memory file"));
  EXPECT_THAT(parse_error("CAIRNMEM"), HasSubstr("it ends within its headers"));
}

// A file that says it is huge, and is, without a byte of it on the disk: nothing of that size is allocated.
TEST(ExtentHostile, HugeSparseFile) {
  TempFolder folder;
  const int64_t size = int64_t{1} << 40;
  auto write = [&](const ExtentCommit& commit) {
    write_quickly(folder / "x", extent_slot(commit));
    ASSERT_EQ(truncate((folder / "x").c_str(), size), 0);
  };
  write({.sequence = 1, .directory_offset = 8192, .directory_bytes = size - 8192, .directory_checksum = 1, .size = size});
  EXPECT_THAT(error_of([&] { ExtentFile::open(folder / "x", false); }), HasSubstr("a directory of"));
  write({.sequence = 1, .directory_offset = 8192, .directory_bytes = 4096, .directory_checksum = 1, .size = size});
  EXPECT_THAT(error_of([&] { ExtentFile::open(folder / "x", false); }), HasSubstr("the checksum of its directory"));
}

// Where no number is left for one more commit, there is none; and sums of offsets must not leave 63 bits.
TEST(ExtentHostile, EndsOfTheNumbers) {
  TempFolder folder(quick_disk());
  const fs::path path = folder / "x";
  const ExtentCommit last = {
      .sequence = kMaxExtentCommits, .directory_offset = 8192, .directory_bytes = -1, .directory_checksum = 0, .size = 3 * 4096};
  write_quickly(path, built(last, {}, 3 * 4096));
  {
    const auto file = ExtentFile::open(path, true);
    EXPECT_THAT(error_of([&] { file->commit("more"); }), HasSubstr("all the commits"));
    file->rollback();
  }
  EXPECT_EQ(ExtentFile::open(path, false)->root(), "root");
  const int64_t huge = std::numeric_limits<int64_t>::max();
  ExtentCommit commit = {.sequence = 1, .directory_offset = 8192, .directory_bytes = -1, .directory_checksum = 0, .size = huge};
  const std::vector<Extent> all = {{12288, huge - 12288, 0}};
  write_quickly(path, built(commit, all, 3 * 4096));
  if (truncate(path.c_str(), huge) != 0) GTEST_SKIP() << "no sparse files of such a size here";
  EXPECT_THAT(error_of([&] { ExtentFile::open(path, true); }), HasSubstr("a size of 9223372036854775807 bytes"));
}

TEST(ExtentHostile, RandomMutationsWithRightChecksums) {
  const Image good = good_file();
  const ExtentContents contents = ExtentFile::parse(as_bytes(good.bytes), "x");
  Random random(20260102, 0);
  const int64_t numbers[] = {0, 1, -1, 4096, 8192, 12288, 4095, int64_t{1} << 32, int64_t{1} << 62, std::numeric_limits<int64_t>::max()};
  auto number = [&](int64_t old) -> int64_t {
    switch (random.below(4)) {
      case 0:
        return numbers[random.below(std::size(numbers))];
      case 1:
        return static_cast<int64_t>(static_cast<uint64_t>(old) + static_cast<uint64_t>(4096 * (random.below(7) - 3)));
      case 2:
        return static_cast<int64_t>(static_cast<uint64_t>(old) + static_cast<uint64_t>(random.below(9) - 4));
      default:
        return old ^ (int64_t{1} << random.below(63));
    }
  };
  int accepted = 0;
  for (int round = 0; round < 20'000; ++round) {
    ExtentCommit commit = contents.commit;
    commit.directory_bytes = -1;
    std::vector<Extent> extents = contents.extents;
    for (int64_t change = 1 + random.below(3); change > 0; --change) {
      Extent& extent = extents[static_cast<size_t>(random.below(static_cast<int64_t>(extents.size())))];
      int64_t* const fields[] = {
          &commit.sequence, &commit.directory_offset, &commit.directory_bytes, &commit.size, &extent.offset, &extent.bytes, &extent.offset,
          &extent.bytes};
      int64_t& field = *fields[random.below(std::size(fields))];
      field = number(field);
    }
    const std::string bytes = built(commit, extents, static_cast<int64_t>(good.bytes.size()));
    try {
      const ExtentContents read = ExtentFile::parse(as_bytes(bytes), "x");
      ++accepted;
      std::vector<bool> taken(bytes.size(), false);
      for (const Extent& extent : read.extents) {
        if (extent.bytes == 0) continue;
        ASSERT_TRUE(extent.offset >= 8192 && extent.offset % 4096 == 0 && extent.bytes > 0);
        ASSERT_LE(extent.offset, static_cast<int64_t>(bytes.size()));
        ASSERT_LE(extent.bytes, static_cast<int64_t>(bytes.size()) - extent.offset);
        const auto from = taken.begin() + extent.offset, to = from + extent.bytes;
        ASSERT_EQ(std::find(from, to, true), to);
        std::fill(from, to, true);
      }
    } catch (const UserError&) {
    }
  }
  EXPECT_GT(accepted, 1000);
  EXPECT_LT(accepted, 15'000);
}

TEST(ExtentHostile, WhatIsNoFile) {
  TempFolder folder;
  EXPECT_THAT(error_of([&] { ExtentFile::open(folder / "none", false); }), HasSubstr("none: No such file"));
  EXPECT_THAT(error_of([&] { ExtentFile::open(folder.path(), false); }), HasSubstr("it is a folder"));
  ASSERT_EQ(mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_THAT(error_of([&] { ExtentFile::open(folder / "pipe", false); }), HasSubstr("it is not an ordinary file"));
  write_quickly(folder / "text", "Once upon a time");
  EXPECT_THAT(error_of([&] { ExtentFile::open(folder / "text", false); }), HasSubstr("text is not a memory file"));
}

}  // namespace
}  // namespace cairn
