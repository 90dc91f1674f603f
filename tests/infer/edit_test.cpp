// Edits and joins of memories equal a fresh read of the changed text, in main memory and in the file (docs/algorithm.md section 4, points
// 3, 4).
#include "cairn/infer/edit.h"

#include <ATen/ops/equal.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cairn/core/error.h"
#include "infer/text_memory.h"

namespace cairn {
namespace {

TEST(EditTest, EqualsAFreshReadInMemoryAndInTheFile) {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    Setting s(seed + 200);
    SCOPED_TRACE(fmt::format("seed {}: {}", seed, describe(s.config)));
    const TempFolder folder(quick_disk());
    const int64_t chunk = s.config.chunk;
    std::vector<int32_t> ids = s.ids(20 + s.random.below(150));
    save_memory(folder / "a.memory", s.maker, s.remember(ids));
    const std::vector<int32_t> question = s.ids(6);
    MemoryFile file = MemoryFile::open(folder / "a.memory", true);
    TextMemory text = file.load(*file.root().memory, true, at::kCPU);
    for (int edit = 0; edit < 6; ++edit) {
      const int64_t size = std::ssize(ids), kind = s.random.below(3);
      if (kind == 0) {
        const int64_t begin = s.random.below(size), count = 1 + s.random.below(std::min<int64_t>(30, size - begin));
        const std::vector<int32_t> fresh = s.ids(count);
        std::copy(fresh.begin(), fresh.end(), ids.begin() + begin);
        commit_change(file, text, overwrite_tokens(*s.reader, text, begin, fresh));
      } else if (kind == 1) {
        const int64_t begin = s.random.below(size / chunk + 1) * chunk;
        const std::vector<int32_t> fresh = s.ids((1 + s.random.below(3)) * chunk);
        ids.insert(ids.begin() + begin, fresh.begin(), fresh.end());
        commit_change(file, text, insert_tokens(*s.reader, text, begin, fresh));
      } else if (size >= 3 * chunk) {
        const int64_t begin = s.random.below(size / chunk) * chunk, most = (size - begin) / chunk;
        const int64_t count = (1 + s.random.below(std::min<int64_t>(2, most))) * chunk;
        if (count >= size) continue;
        ids.erase(ids.begin() + begin, ids.begin() + begin + count);
        commit_change(file, text, delete_tokens(*s.reader, text, begin, count));
      }
      ASSERT_EQ(ids_of(text), ids) << "edit " << edit << " kind " << kind;
      const at::Tensor want = s.ask(s.remember(ids), question), got = s.ask(text, question);
      ASSERT_LE(relative_rms(got, want), 1e-5) << "edit " << edit << " kind " << kind;
      // The file cuts pages where the edit was, so scores are computed in other blocks: equal up to rounding; both tiers bit by bit.
      const TextMemory stored = file.load(*file.root().memory, true, at::kCPU), copied = file.load(*file.root().memory, false, at::kCPU);
      ASSERT_EQ(ids_of(stored), ids);
      const at::Tensor from_file = s.ask(stored, question);
      ASSERT_LE(relative_rms(from_file, got), 1e-5) << "edit " << edit << " kind " << kind;
      ASSERT_TRUE(at::equal(s.ask(copied, question), from_file)) << "edit " << edit << " kind " << kind;
    }
  }
}

// A window of one token and a text that ends with a chunk: there is nothing to keep of its end.
TEST(EditTest, NothingKeptOfTheEnd) {
  int met = 0;
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    Setting s(seed + 9000);
    if (s.config.window != 1 || s.config.upper_reach() != 0) continue;
    ++met;
    SCOPED_TRACE(fmt::format("seed {}: {}", seed, describe(s.config)));
    const int64_t chunk = s.config.chunk;
    std::vector<int32_t> ids = s.ids(5 * chunk);
    TextMemory text = s.remember(ids);
    const std::vector<int32_t> fresh = s.ids(chunk), question = s.ids(6);
    ids.insert(ids.begin() + chunk, fresh.begin(), fresh.end());
    insert_tokens(*s.reader, text, chunk, fresh);
    ids.erase(ids.begin() + 3 * chunk, ids.begin() + 4 * chunk);
    delete_tokens(*s.reader, text, 3 * chunk, chunk);
    ASSERT_EQ(ids_of(text), ids);
    ASSERT_LE(relative_rms(s.ask(text, question), s.ask(s.remember(ids), question)), 1e-5);
  }
  EXPECT_GT(met, 0);
}

TEST(EditTest, ManyEditsDoNotLeaveCrumbs) {
  Setting s(7);
  const TempFolder folder(quick_disk());
  std::vector<int32_t> ids = s.ids(900 * s.config.chunk);
  save_memory(folder / "a.memory", s.maker, s.remember(ids));
  MemoryFile file = MemoryFile::open(folder / "a.memory", true);
  TextMemory text = file.load(*file.root().memory, true, at::kCPU);
  int64_t bytes = 0;
  for (int i = 0; i < 200; ++i) {
    const int64_t begin = s.random.below(std::ssize(ids));
    const std::vector<int32_t> fresh = s.ids(1);
    ids[begin] = fresh[0];
    commit_change(file, text, overwrite_tokens(*s.reader, text, begin, fresh));
    if (i == 20) bytes = file.extents().used_bytes();
  }
  EXPECT_LE(file.root().memory->pages.size(), 70u);
  EXPECT_LE(file.extents().used_bytes(), 2 * bytes);
  EXPECT_EQ(ids_of(file.load(*file.root().memory, true, at::kCPU)), ids);
}

TEST(JoinTest, EqualsAFreshReadOfBothTexts) {
  for (uint64_t seed = 1; seed <= 24; ++seed) {
    Setting s(seed + 300);
    SCOPED_TRACE(fmt::format("seed {}: {}", seed, describe(s.config)));
    std::vector<int32_t> a = s.ids(1 + s.random.below(100)), b = s.ids(1 + s.random.below(100)), c = s.ids(1 + s.random.below(30));
    const std::vector<int32_t> question = s.ids(6);
    int64_t first_padding = 0, second_padding = 0;
    const TextMemory ab = join_texts(*s.reader, s.remember(a, {{"a", 0}}), s.remember(b, {{"b", 0}}), &first_padding);
    const TextMemory joined = join_texts(*s.reader, ab, s.remember(c, {{"c", 0}}), &second_padding);
    a.insert(a.end(), first_padding, 0);
    const int64_t at_b = std::ssize(a);
    a.insert(a.end(), b.begin(), b.end());
    a.insert(a.end(), second_padding, 0);
    const int64_t at_c = std::ssize(a);
    a.insert(a.end(), c.begin(), c.end());
    EXPECT_EQ(at_b % s.config.chunk, 0);
    EXPECT_EQ(ids_of(joined), a);
    ASSERT_EQ(joined.documents.size(), 3u);
    EXPECT_EQ(joined.documents[1].token, at_b);
    EXPECT_EQ(joined.documents[2].token, at_c);
    EXPECT_LE(relative_rms(s.ask(joined, question), s.ask(s.remember(a), question)), 1e-5);
  }
}

TEST(EditTest, RefusesWhatDoesNotFit) {
  Setting s(3);
  while (s.config.chunk == 1) s = Setting(s.random.next());
  const int64_t chunk = s.config.chunk;
  TextMemory text = s.remember(s.ids(10 * chunk));
  const std::vector<int32_t> grid = s.ids(chunk), off = s.ids(chunk + 1);
  EXPECT_THAT(message_of<UserError>([&] { overwrite_tokens(*s.reader, text, 10 * chunk - 2, off); }), testing::HasSubstr("outside"));
  EXPECT_THAT(message_of<UserError>([&] { overwrite_tokens(*s.reader, text, -1, grid); }), testing::HasSubstr("outside"));
  EXPECT_THAT(message_of<UserError>([&] { overwrite_tokens(*s.reader, text, 0, {}); }), testing::HasSubstr("no tokens"));
  EXPECT_THAT(message_of<UserError>([&] { insert_tokens(*s.reader, text, 1, grid); }), testing::HasSubstr("chunk grid"));
  EXPECT_THAT(message_of<UserError>([&] { insert_tokens(*s.reader, text, 0, off); }), testing::HasSubstr("chunk grid"));
  EXPECT_THAT(message_of<UserError>([&] { insert_tokens(*s.reader, text, 11 * chunk, grid); }), testing::HasSubstr("outside"));
  EXPECT_THAT(message_of<UserError>([&] { delete_tokens(*s.reader, text, 0, 10 * chunk); }), testing::HasSubstr("all"));
  EXPECT_THAT(message_of<UserError>([&] { delete_tokens(*s.reader, text, chunk, 10 * chunk); }), testing::HasSubstr("outside"));
  const std::vector<int32_t> unknown = {static_cast<int32_t>(s.config.vocab)};
  EXPECT_THAT(message_of<UserError>([&] { overwrite_tokens(*s.reader, text, 0, unknown); }), testing::HasSubstr("vocabulary"));
}

}  // namespace
}  // namespace cairn
