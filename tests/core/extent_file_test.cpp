// Extent files: transactions, reuse of space, mappings, failures of the disk. extent_hostile_test.cpp has broken files,
// extent_process_test.cpp several processes.
#include "cairn/core/extent_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <sys/stat.h>

#include <map>

#include "cairn/core/random.h"
#include "cairn/core/range_set.h"
#include "core/extent_helpers.h"

namespace cairn {
namespace {

using ::testing::HasSubstr;

TEST(RangeSet, EqualsABitmap) {
  Random random(7, 0);
  for (int round = 0; round < 300; ++round) {
    RangeSet set;
    std::vector<bool> taken(200, false);
    for (int64_t n = random.below(12); n >= 0; --n) {
      const int64_t begin = random.below(150), end = begin + random.below(20);
      set.insert(begin, end);
      std::fill(taken.begin() + begin, taken.begin() + end, true);
    }
    std::vector<bool> seen(200, false);
    int64_t before = -1;
    for (const auto& [begin, end] : set.ranges()) {
      EXPECT_GT(begin, before) << "ranges that touch are merged";
      before = end;
      std::fill(seen.begin() + begin, seen.begin() + end, true);
    }
    ASSERT_EQ(seen, taken);
    for (int64_t bytes : {1, 3, 17}) {
      int64_t at = 0, run = 0;
      for (int64_t i = 0; i < 200 && run < bytes; ++i) {
        run = taken[static_cast<size_t>(i)] ? 0 : run + 1;
        if (run == 1) at = i;
      }
      ASSERT_EQ(set.first_fit(bytes), at);
    }
  }
}

TEST(ExtentFile, RoundTrip) {
  TempFolder folder;
  const fs::path path = folder / "x.memory";
  const std::string a = pattern(1, 1), b = pattern(2, 4096), c = pattern(3, 4097), d = pattern(4, 100'000);
  {
    const auto file = ExtentFile::create(path);
    EXPECT_FALSE(fs::exists(path));
    EXPECT_EQ(file->add(as_bytes(a)), 0);
    EXPECT_EQ(file->add(as_bytes(b)), 1);
    EXPECT_EQ(file->sequence(), 0);
    EXPECT_EQ(content(*file, 1), b) << "pending extents can be read";
    file->commit("{\"n\": 1}");
    EXPECT_TRUE(fs::exists(path));
    EXPECT_EQ(file->root(), "{\"n\": 1}");
    EXPECT_EQ(file->add(as_bytes(c)), 2);
    EXPECT_EQ(file->add(as_bytes(d)), 3);
    file->remove(0);
    EXPECT_EQ(file->root(), "{\"n\": 1}");
    file->commit("{\"n\": 2}");
  }
  for (bool writable : {false, true}) {
    const auto file = ExtentFile::open(path, writable);
    EXPECT_EQ(file->root(), "{\"n\": 2}");
    EXPECT_EQ(file->sequence(), 2);
    EXPECT_EQ(file->extents(), 4);
    EXPECT_EQ(content(*file, 1), b);
    EXPECT_EQ(content(*file, 2), c);
    EXPECT_EQ(content(*file, 3), d);
    for (int64_t id : {1, 2, 3}) {
      EXPECT_NO_THROW(file->verify(id));
      EXPECT_EQ(file->extent(id).offset % 4096, 0);
    }
    for (int64_t id : {int64_t{-1}, int64_t{0}, int64_t{4}, int64_t{1} << 62}) {
      EXPECT_THAT(error_of([&] { file->extent(id); }), HasSubstr(path.string() + ": there is no extent " + std::to_string(id)));
      EXPECT_THAT(error_of([&] { file->map(id); }), HasSubstr("there is no extent"));
      EXPECT_THAT(error_of([&] { file->verify(id); }), HasSubstr("there is no extent"));
    }
    EXPECT_EQ(file->used_bytes(), 8192 + 8 + 4 * 24 + 8 + 4096 + 4097 + 100'000);
    EXPECT_EQ(file->file_bytes(), static_cast<int64_t>(fs::file_size(path)));
    EXPECT_GE(file->file_bytes(), file->used_bytes());
  }
  // What the two header slots say, read as the format's description says it.
  const std::string bytes = read_file(path);
  uint64_t odd, even;
  std::memcpy(&odd, bytes.data() + 16, 8);
  std::memcpy(&even, bytes.data() + 4096 + 16, 8);
  EXPECT_EQ(bytes.substr(0, 8), "CAIRNMEM");
  EXPECT_EQ(bytes.substr(4096, 8), "CAIRNMEM");
  EXPECT_EQ(odd, 1u);
  EXPECT_EQ(even, 2u);
}

TEST(ExtentFile, NothingAppearsWithoutCommit) {
  TempFolder folder;
  { ExtentFile::create(folder / "x")->add(as_bytes("abc")); }
  EXPECT_TRUE(fs::is_empty(folder.path()));
  write_quickly(folder / "x", "old");
  { ExtentFile::create(folder / "x")->add(as_bytes("abc")); }
  EXPECT_EQ(read_file(folder / "x"), "old");
  ExtentFile::create(folder / "x")->commit("new");
  EXPECT_EQ(ExtentFile::open(folder / "x", false)->root(), "new");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 1);
  EXPECT_THAT(error_of([&] { ExtentFile::create(folder / "none" / "x"); }), HasSubstr("cannot write"));
  EXPECT_THAT(error_of([&] { ExtentFile::create(folder.path()); }), HasSubstr("it is a folder"));
}

TEST(ExtentFile, BothSlotsTakeTurns) {
  TempFolder folder;
  const auto file = ExtentFile::create(folder / "x");
  for (int64_t n = 1; n <= 7; ++n) {
    file->commit(std::to_string(n));
    const std::string bytes = read_file(folder / "x");
    const ExtentContents contents = ExtentFile::parse(as_bytes(bytes), "x");
    EXPECT_EQ(contents.root, std::to_string(n));
    EXPECT_EQ(contents.commit.sequence, n);
    // Without the newest header the commit before is the state.
    std::string older = bytes;
    older[n % 2 == 1 ? 0 : 4096] = '?';
    if (n == 1) {
      EXPECT_THAT(error_of([&] { ExtentFile::parse(as_bytes(older), "x"); }), HasSubstr("not a memory file"));
    } else {
      EXPECT_EQ(ExtentFile::parse(as_bytes(older), "x").root, std::to_string(n - 1));
    }
  }
}

TEST(ExtentFile, RollbackForgets) {
  TempFolder folder;
  const auto file = ExtentFile::create(folder / "x");
  const std::string a = pattern(1, 5000), b = pattern(2, 5000);
  file->add(as_bytes(a));
  file->rollback();
  EXPECT_EQ(file->extents(), 0);
  EXPECT_EQ(file->add(as_bytes(a)), 0);
  file->commit("1");
  const int64_t size = file->file_bytes();
  file->remove(0);
  EXPECT_EQ(file->add(as_bytes(b)), 0) << "the smallest free id";
  for (int i = 0; i < 50; ++i) file->add(as_bytes(b));
  EXPECT_EQ(content(*file, 0), b);
  EXPECT_GT(file->file_bytes(), size + 50 * 8000);
  file->rollback();
  EXPECT_EQ(content(*file, 0), a);
  EXPECT_EQ(file->extents(), 1);
  EXPECT_EQ(file->file_bytes(), size);
  file->commit("2");
  EXPECT_EQ(ExtentFile::parse(as_bytes(read_file(folder / "x")), "x").root, "2");
}

TEST(ExtentFile, SpaceIsUsedAgain) {
  TempFolder folder(quick_disk());
  const auto file = ExtentFile::create(folder / "x");
  int64_t largest = 0;
  for (int64_t n = 0; n < 300; ++n) {
    if (n > 0) file->remove(0);
    file->add(as_bytes(pattern(n, 40'000 + n % 7 * 4096)));
    file->commit(std::to_string(n));
    largest = std::max(largest, file->file_bytes());
    EXPECT_EQ(file->extents(), 1);
  }
  // Old and new extent and directory at once, and a little for what does not fit each other.
  EXPECT_LT(largest, 4 * (40'000 + 7 * 4096));
  file->remove(0);
  file->commit("");
  file->commit("");
  file->commit("");
  EXPECT_LE(file->file_bytes(), 8192 + 2 * 4096);
  EXPECT_EQ(file->extents(), 0);
}

// Against a plain model: random additions, removals, commits, rollbacks and reopenings.
void compare_with_a_map() {
  static TempFolder folder(quick_disk());
  const fs::path path = folder / "x";
  std::map<int64_t, std::string> committed, now;
  auto file = ExtentFile::create(path);
  const auto steps = *rc::gen::inRange(1, 60);
  std::string root;
  int64_t commits = 0;
  std::vector<std::pair<std::shared_ptr<uint8_t>, std::string>> mapped;  // must stay what they were
  for (int step = 0; step < steps; ++step) {
    const int what = *rc::gen::inRange(0, 12);
    if (what < 5) {
      const std::string bytes = pattern(step + 1000 * steps, *rc::gen::inRange(1, 20'000));
      const int64_t id = file->add(as_bytes(bytes));
      RC_ASSERT(now.count(id) == 0u);
      now[id] = bytes;
    } else if (what < 7 && !now.empty()) {
      const auto at = std::next(now.begin(), *rc::gen::inRange<int>(0, static_cast<int>(now.size())));
      file->remove(at->first);
      now.erase(at);
    } else if (what < 9) {
      root = "root " + std::to_string(step);
      file->commit(root);
      committed = now;
      ++commits;
    } else if (what == 9) {
      file->rollback();
      now = committed;
    } else if (what == 10 && !now.empty()) {
      const auto at = std::next(now.begin(), *rc::gen::inRange<int>(0, static_cast<int>(now.size())));
      mapped.emplace_back(file->map(at->first), at->second);
      if (mapped.size() > 4) mapped.erase(mapped.begin());
    } else if (what == 11 && commits > 0) {
      for (const auto& [bytes, text] : mapped) RC_ASSERT(std::memcmp(bytes.get(), text.data(), text.size()) == 0);
      mapped.clear();  // they hold the lock
      file.reset();
      file = ExtentFile::open(path, true);
      now = committed;
    }
    for (const auto& [id, text] : now) RC_ASSERT(content(*file, id) == text);
  }
  for (const auto& [bytes, text] : mapped) RC_ASSERT(std::memcmp(bytes.get(), text.data(), text.size()) == 0);
  mapped.clear();
  file.reset();
  if (commits > 0) {
    file = ExtentFile::open(path, false);
    RC_ASSERT(file->root() == root);
    for (int64_t id = 0; id < file->extents(); ++id) {
      if (committed.count(id)) {
        RC_ASSERT(content(*file, id) == committed[id]);
        file->verify(id);
      } else {
        RC_ASSERT_THROWS_AS(file->extent(id), UserError);
      }
    }
    fs::remove(path);
  }
}

TEST(ExtentFile, EqualsAMapOfStrings) {
  EXPECT_TRUE(rc::check([] { compare_with_a_map(); }));
}

TEST(ExtentFile, MappingsStayWhatTheyWere) {
  TempFolder folder;
  const std::string a = pattern(1, 50'000), b = pattern(2, 50'000);
  auto file = ExtentFile::create(folder / "x");
  file->add(as_bytes(a));
  file->add(as_bytes(a));
  file->commit("1");
  // Nobody has touched its pages when the extent is removed and the space would fit the next ones.
  const auto untouched = file->map(0), other = file->map(1);
  const int64_t offset = file->extent(0).offset;
  file->remove(0);
  file->commit("2");
  for (int64_t n = 0; n < 5; ++n) {
    const int64_t id = file->add(as_bytes(b));
    EXPECT_NE(file->extent(id).offset, offset);
    file->commit("3");
  }
  EXPECT_EQ(std::memcmp(untouched.get(), a.data(), a.size()), 0);
  // Writes stay in their mapping.
  other.get()[0] = static_cast<uint8_t>(a[0] + 1);
  EXPECT_EQ(content(*file, 1), a);
  EXPECT_NO_THROW(file->verify(1));
  // The file object goes, the file is replaced.
  file.reset();
  ExtentFile::create(folder / "x")->commit("new");
  EXPECT_EQ(std::memcmp(untouched.get(), a.data(), a.size()), 0);
  EXPECT_EQ(other.get()[0], static_cast<uint8_t>(a[0] + 1));
}

TEST(ExtentFile, SpaceOfAMappingIsUsedOnceItIsGone) {
  TempFolder folder;
  const auto file = ExtentFile::create(folder / "x");
  file->add(as_bytes(pattern(1, 50'000)));
  file->commit("1");
  auto mapped = file->map(0);
  const int64_t offset = file->extent(0).offset;
  file->remove(0);
  file->commit("2");
  mapped.reset();
  file->commit("3");
  EXPECT_EQ(file->extent(file->add(as_bytes(pattern(2, 50'000)))).offset, offset);
}

// A pending extent that is mapped and forgotten: its bytes stay, although the file is cut behind the last commit otherwise.
TEST(ExtentFile, MappedPendingExtentOutlivesRollback) {
  TempFolder folder;
  const auto file = ExtentFile::create(folder / "x");
  file->commit("1");
  const std::string a = pattern(1, 50'000);
  const auto mapped = file->map(file->add(as_bytes(a)));
  file->rollback();
  file->add(as_bytes(pattern(2, 50'000)));
  file->commit("2");
  EXPECT_EQ(std::memcmp(mapped.get(), a.data(), a.size()), 0);
}

TEST(ExtentFile, EmptyRootAndMode) {
  TempFolder folder;
  write_quickly(folder / "x", "old");
  chmod((folder / "x").c_str(), 0640);
  ExtentFile::create(folder / "x")->commit("");
  EXPECT_EQ(ExtentFile::open(folder / "x", false)->root(), "");
  EXPECT_EQ(fs::status(folder / "x").permissions(), fs::perms(0640)) << "that of the file before";
}

TEST(ExtentFileDeathTest, MisuseIsABug) {
  TempFolder folder;
  ExtentFile::create(folder / "x")->commit("");
  const auto file = ExtentFile::open(folder / "x", false);
  EXPECT_DEATH(file->add(as_bytes("a")), "takes no extents");
  EXPECT_DEATH(file->commit(""), "takes no commit");
  EXPECT_DEATH(ExtentFile::create(folder / "y")->add({}), "an empty extent");
}

}  // namespace
}  // namespace cairn
