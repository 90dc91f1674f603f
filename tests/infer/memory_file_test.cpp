// Memory files: what was saved is what is loaded, bit by bit and in every tier; reading, killed reading, appending and reading at once give
// the same memory (docs/algorithm.md section 5).
#include "cairn/infer/memory_file.h"

#include <ATen/ops/equal.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cairn/core/error.h"
#include "cairn/infer/read_text.h"
#include "infer/text_memory.h"

namespace cairn {
namespace {

TEST(MemoryFileTest, LoadedIsWhatWasSavedBitByBit) {
  for (uint64_t seed = 1; seed <= 24; ++seed) {
    Setting s(seed, seed % 4 == 0 ? at::kBFloat16 : at::kFloat);
    SCOPED_TRACE(fmt::format("seed {}: {}", seed, describe(s.config)));
    const TempFolder folder(quick_disk());
    const int64_t length = 1 + s.random.below(120);
    const TextMemory text =
        s.remember(s.ids(length), length > 9 ? std::vector<Document>{{"a", 0}, {"b", 7}} : std::vector<Document>{{"a", 0}});
    const std::vector<int32_t> question = s.ids(1 + s.random.below(12));
    save_memory(folder / "a.memory", s.maker, text);
    MemoryFile file = MemoryFile::open(folder / "a.memory", false);
    file.require_maker(s.maker);
    file.verify();
    for (const bool mapped : {true, false}) {
      const TextMemory loaded = file.load(*file.root().memory, mapped, at::kCPU);
      EXPECT_EQ(ids_of(loaded), ids_of(text));
      ASSERT_EQ(loaded.documents.size(), text.documents.size());
      EXPECT_EQ(loaded.documents.back().name, text.documents.back().name);
      EXPECT_EQ(loaded.documents.back().token, text.documents.back().token);
      EXPECT_TRUE(at::equal(s.ask(loaded, question), s.ask(text, question)));
      // Reading goes on from it, too.
      const std::vector<int32_t> more = s.ids(40);
      const auto a = loaded.state->fork(), b = text.state->fork();
      s.reader->read(*a, Setting::tensor(more));
      s.reader->read(*b, Setting::tensor(more));
      EXPECT_TRUE(at::equal(s.reader->advance(*a, Setting::tensor(question)), s.reader->advance(*b, Setting::tensor(question))));
    }
  }
}

// Three files, some with several documents; `files` receives their paths.
std::vector<int32_t> write_files(Setting& s, const TempFolder& folder, const std::string& prefix, std::vector<fs::path>* files,
                                 std::vector<Document>* documents) {
  std::vector<int32_t> all;
  for (int f = 0; f < 3; ++f) {
    std::string text;
    for (int64_t d = 0, n = 1 + s.random.below(3); d < n; ++d) {
      const std::vector<int32_t> ids = s.ids(1 + s.random.below(90));
      documents->push_back({(folder / (prefix + std::to_string(f))).string(), std::ssize(all)});
      all.insert(all.end(), ids.begin(), ids.end());
      text += (d == 0 ? "" : std::string(1, '\0')) + as_text(*s.tokenizer, ids);
    }
    files->push_back(folder / (prefix + std::to_string(f)));
    write_text(files->back(), text);
  }
  return all;
}

void expect_same_text(const Setting& s, const TextMemory& got, const TextMemory& want, const std::vector<int32_t>& question) {
  EXPECT_EQ(ids_of(got), ids_of(want));
  ASSERT_EQ(got.documents.size(), want.documents.size());
  for (size_t i = 0; i < want.documents.size(); ++i) {
    EXPECT_EQ(got.documents[i].token, want.documents[i].token);
    EXPECT_EQ(got.documents[i].name, want.documents[i].name);
  }
  EXPECT_LE(relative_rms(s.ask(got, question), s.ask(want, question)), 1e-5);
}

TEST(ReadTextTest, ReadKilledAndAppendedAreOneReading) {
  for (uint64_t seed = 1; seed <= 16; ++seed) {
    Setting s(seed + 100);
    SCOPED_TRACE(fmt::format("seed {}: {}", seed, describe(s.config)));
    s.reader = std::make_unique<Reader>(s.model, ReaderOptions{at::kFloat, 16, 0});  // many segments
    const TempFolder folder(quick_disk());
    std::vector<fs::path> first, second;
    std::vector<Document> documents;
    std::vector<int32_t> all = write_files(s, folder, "a", &first, &documents);
    const size_t first_documents = documents.size();
    const int64_t first_tokens = std::ssize(all);
    const std::vector<int32_t> behind = write_files(s, folder, "b", &second, &documents);
    for (size_t i = first_documents; i < documents.size(); ++i) documents[i].token += first_tokens;
    all.insert(all.end(), behind.begin(), behind.end());
    const TextMemory want = s.remember(all, documents);
    const std::vector<int32_t> question = s.ids(5);
    ReadTextOptions options;
    options.threads = 1;
    options.commit_seconds = 0;

    // At once.
    std::vector<fs::path> both = first;
    both.insert(both.end(), second.begin(), second.end());
    options.files = both;
    MemoryFile whole = MemoryFile::create(folder / "whole", s.maker);
    EXPECT_TRUE(read_text(*s.reader, whole, s.tokenizer, options).finished);
    expect_same_text(s, whole.load(*whole.root().memory, true, at::kCPU), want, question);

    // Stopped again and again, opened anew each time.
    MemoryFile::create(folder / "killed", s.maker).commit();
    for (int tries = 0;; ++tries) {
      ASSERT_LT(tries, 1000);
      MemoryFile file = MemoryFile::open(folder / "killed", true);
      int64_t calls = 0;
      const int64_t last = 2 + s.random.below(3);
      const ReadTextResult result =
          read_text(*s.reader, file, s.tokenizer, options, [&](const ReadTextProgress&) { return ++calls < last; });
      if (result.finished) break;
      EXPECT_FALSE(file.root().memory.has_value());
    }
    {
      MemoryFile file = MemoryFile::open(folder / "killed", false);
      expect_same_text(s, file.load(*file.root().memory, false, at::kCPU), want, question);
    }

    // Two readings, the second appended; it is seen only when it is whole.
    options.files = first;
    {
      MemoryFile file = MemoryFile::create(folder / "grown", s.maker);
      EXPECT_TRUE(read_text(*s.reader, file, s.tokenizer, options).finished);
    }
    options.files = second;
    {
      MemoryFile file = MemoryFile::open(folder / "grown", true);
      int64_t calls = 0;
      if (!read_text(*s.reader, file, s.tokenizer, options, [&](const ReadTextProgress&) { return ++calls < 3; }).finished) {
        EXPECT_EQ(file.root().memory->tokens, first_tokens);
        TextMemory old = file.load(*file.root().memory, true, at::kCPU);
        const ChunkChange change = overwrite_tokens(*s.reader, old, 0, s.ids(1));
        EXPECT_THROW(commit_change(file, old, change), UserError);  // the end of the reading would undo it
        ReadTextOptions others = options;
        others.files = first;
        EXPECT_THROW(read_text(*s.reader, file, s.tokenizer, others), UserError);
        EXPECT_TRUE(read_text(*s.reader, file, s.tokenizer, options).finished);
      }
      expect_same_text(s, file.load(*file.root().memory, true, at::kCPU), want, question);
    }
  }
}

// A kill gives no last word: what a commit in the middle of the reading holds is where the next one goes on.
TEST(ReadTextTest, GoesOnFromACommitAtAFullPage) {
  Setting s(8);
  s.config.chunk = 4;
  s.config.window = 5;
  s.config.lower_layers = 2;
  s.model = random_model(s.config, 8);
  s.reader = std::make_unique<Reader>(s.model, ReaderOptions{at::kFloat, 512, 0});
  s.maker.model = s.config;
  const TempFolder folder(quick_disk());
  std::vector<int32_t> all;
  std::vector<Document> documents;
  std::string text;
  while (std::ssize(all) < 2 * ChunkMemory::kLargestPage * s.config.chunk + 3000) {
    documents.push_back({(folder / "a").string(), std::ssize(all)});
    const std::vector<int32_t> ids = s.ids(300 + s.random.below(900));
    all.insert(all.end(), ids.begin(), ids.end());
    text += (text.empty() ? "" : std::string(1, '\0')) + as_text(*s.tokenizer, ids);
  }
  write_text(folder / "a", text);
  ReadTextOptions options;
  options.files = {folder / "a"};
  options.threads = 1;
  options.commit_seconds = 0;
  struct Killed {};
  MemoryFile::create(folder / "m", s.maker).commit();
  std::vector<int64_t> begun;
  for (const int64_t last : {int64_t{2}, ChunkMemory::kLargestPage * 4 + 2000, ChunkMemory::kLargestPage * 8 + 2000, int64_t{1} << 40}) {
    MemoryFile file = MemoryFile::open(folder / "m", true);
    begun.push_back(file.root().reading ? file.root().reading->memory.tokens : 0);
    try {
      read_text(*s.reader, file, s.tokenizer, options, [&](const ReadTextProgress& now) {
        if (now.tokens >= last) throw Killed{};
        return true;
      });
    } catch (const Killed&) {
      continue;
    }
    EXPECT_EQ(begun.size(), 4u);
  }
  EXPECT_EQ(begun[1], 0);  // killed before the first full page
  EXPECT_GE(begun[2], ChunkMemory::kLargestPage * 4);
  EXPECT_GT(begun[3], begun[2]);
  const MemoryFile file = MemoryFile::open(folder / "m", false);
  expect_same_text(s, file.load(*file.root().memory, true, at::kCPU), s.remember(all, documents), s.ids(6));
}

// A file of every version of the format is kept: 60 and 25 words of the word pairs' list, written by cairn 0.1.0 with the demo's
// configuration.
TEST(MemoryFileTest, FilesOfEarlierVersionsStayReadable) {
  const MemoryFile file = MemoryFile::open(fs::path(CAIRN_SOURCE_DIR) / "tests/data/memory-v1.memory", false);
  file.verify();
  ASSERT_TRUE(file.root().memory.has_value());
  EXPECT_EQ(file.root().model.chunk, 8);
  const TextMemory text = file.load(*file.root().memory, true, at::kCPU);
  ASSERT_EQ(text.tokens.size(), 85);
  ASSERT_EQ(text.documents.size(), 2u);
  EXPECT_EQ(text.documents[1].name, "two.txt");
  EXPECT_EQ(text.documents[1].token, 60);
  EXPECT_EQ(text.state->memory.chunks(), 10);
  const std::vector<int32_t> ids = ids_of(text);
  for (int i = 0; i < 60; ++i) EXPECT_EQ(ids[i], 1 + i * 7 % 160);
  for (int i = 0; i < 25; ++i) EXPECT_EQ(ids[60 + i], 1 + i * 11 % 160);
}

TEST(MemoryFileTest, RefusesWhatIsNotItsOwn) {
  Setting s(5);
  const TempFolder folder(quick_disk());
  save_memory(folder / "a.memory", s.maker, s.remember(s.ids(50)));
  const MemoryFile file = MemoryFile::open(folder / "a.memory", false);
  MemoryMaker other = s.maker;
  other.fingerprint = "fedcba9876543210";
  EXPECT_THAT(message_of<UserError>([&] { file.require_maker(other); }), testing::HasSubstr("another model"));
  other = s.maker;
  other.tokenizer_fingerprint = "fedcba9876543210";
  EXPECT_THAT(message_of<UserError>([&] { file.require_maker(other); }), testing::HasSubstr("another tokenizer"));
  other = s.maker;
  other.compute = at::kBFloat16;
  EXPECT_THAT(message_of<UserError>([&] { file.require_maker(other); }), testing::HasSubstr("--precision fp32"));
  EXPECT_THAT(message_of<UserError>([&] { MemoryFile::open(folder / "a.memory", true); }), testing::HasSubstr("a.memory"));  // in use
}

}  // namespace
}  // namespace cairn
