// Extent files and what happens around them: other processes, kills (of processes: what they wrote survives in the page cache; a power cut
// is another matter, for which the order of the fsyncs stands), full and failing disks.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <optional>
#include <thread>

#include "cairn/core/random.h"
#include "core/extent_helpers.h"
#include "core/in_child.h"

namespace {
std::atomic<int> syncs_until_failure{-1};  // below 0: disks do not fail
std::atomic<void (*)()> on_failure{nullptr};
}  // namespace

// In place of the C library's for this whole test program: a disk that reports an error at the n-th fsync.
extern "C" int fsync(int descriptor) {
  if (syncs_until_failure >= 0 && syncs_until_failure-- == 0) {
    if (auto* act = on_failure.load()) act();
    errno = EIO;
    return -1;
  }
  return static_cast<int>(syscall(SYS_fsync, descriptor));
}

namespace cairn {
namespace {

using ::testing::HasSubstr;

TEST(ExtentProcesses, Locks) {
  TempFolder folder;
  const fs::path path = folder / "x";
  ExtentFile::create(path)->commit("1");
  auto child_error = [&](bool writable) { return in_child([&] { return error_of([&] { ExtentFile::open(path, writable); }); }); };
  const std::string fine = "(nothing was thrown)";
  {
    const auto reader = ExtentFile::open(path, false);
    EXPECT_EQ(child_error(false), fine);
    EXPECT_THAT(child_error(true), HasSubstr(path.string() + " is in use: another process"));
    EXPECT_EQ(in_child([&] { return error_of([&] { ExtentFile::create(path)->commit("2"); }); }), fine) << "readers keep what they have";
    EXPECT_EQ(reader->root(), "1");
    EXPECT_EQ(child_error(true), fine) << "the new file is another";
  }
  {
    const auto writer = ExtentFile::open(path, true);
    EXPECT_THAT(child_error(false), HasSubstr("is in use: another process"));
    EXPECT_THAT(child_error(true), HasSubstr("is in use: another process"));
    EXPECT_THAT(in_child([&] { return error_of([&] { ExtentFile::create(path); }); }), HasSubstr("another process writes it"));
  }
  EXPECT_EQ(child_error(true), fine);
  {
    const auto writer = ExtentFile::create(folder / "y");
    writer->commit("1");
    EXPECT_THAT(in_child([&] { return error_of([&] { ExtentFile::open(folder / "y", false); }); }), HasSubstr("is in use"));
  }
  // A mapping keeps writers away, not readers, once the file object is gone.
  auto writer = ExtentFile::open(path, true);
  writer->add(as_bytes("abc"));
  writer->commit("3");
  auto mapped = writer->map(0);
  writer.reset();
  EXPECT_EQ(child_error(false), fine);
  EXPECT_THAT(child_error(true), HasSubstr("is in use"));
  mapped.reset();
  EXPECT_EQ(child_error(true), fine);
}

// The n-th state: a few extents whose number, sizes and bytes follow from n.
void make_state(ExtentFile& file, int64_t n) {
  for (int64_t id = 0; id < file.extents(); ++id) {
    // Not all change from one state to the next.
    const bool there = error_of([&] { file.extent(id); }) == "(nothing was thrown)";
    if (there && (id + n) % 3 != 0) file.remove(id);
  }
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < 3; ++i) ids.push_back(file.add(as_bytes(pattern(10 * n + i, 1 + (n * 7919 + i * 5000) % 20'000))));
  file.commit(fmt::format("{} {} {} {}", n, ids[0], ids[1], ids[2]));
}

// The number of the state that the file holds; fails if its bytes are not those of that state.
int64_t check_state(const fs::path& path) {
  const auto file = ExtentFile::open(path, true);
  long long n = 0, ids[3] = {};
  EXPECT_EQ(std::sscanf(file->root().c_str(), "%lld %lld %lld %lld", &n, &ids[0], &ids[1], &ids[2]), 4) << file->root();
  for (int64_t i = 0; i < 3; ++i) EXPECT_EQ(content(*file, ids[i]), pattern(10 * n + i, 1 + (n * 7919 + i * 5000) % 20'000));
  for (int64_t id = 0; id < file->extents(); ++id) {
    if (error_of([&] { file->extent(id); }) == "(nothing was thrown)") {
      EXPECT_EQ(error_of([&] { file->verify(id); }), "(nothing was thrown)");
    }
  }
  return n;
}

TEST(ExtentProcesses, KilledAtRandomMoments) {
  TempFolder folder(quick_disk());
  const fs::path path = folder / "x";
  // Shared with the children: the last state whose commit has returned.
  auto* done = static_cast<std::atomic<int64_t>*>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(done, MAP_FAILED);
  new (done) std::atomic<int64_t>(0);
  make_state(*ExtentFile::create(path), 0);
  Random random(1, 0);
  int64_t between = 0, commits = 0, before = 0;
  constexpr int kKills = 150;
  for (int kill_number = 0; kill_number < kKills; ++kill_number) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      const auto file = ExtentFile::open(path, true);
      for (int64_t n = done->load() + 1;; ++n) {
        make_state(*file, n);
        done->store(n);
      }
    }
    // Until it works, then a random while longer; some are killed while they open.
    if (random.chance(0.9)) {
      while (done->load() == before && waitpid(child, nullptr, WNOHANG) == 0) std::this_thread::yield();
    }
    std::this_thread::sleep_for(std::chrono::microseconds(random.below(2000)));
    kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << "the child ended by itself";
    const int64_t said = done->load(), found = check_state(path);
    ASSERT_TRUE(found == said || found == said + 1) << "commit " << said << " had returned, the file holds " << found;
    between += found == said + 1;
    commits += found - before;
    before = found;
    done->store(found);
  }
  std::printf("%d kills among %lld commits; %lld of them between a commit and its return\n", kKills, static_cast<long long>(commits),
              static_cast<long long>(between));
  EXPECT_GT(commits, kKills / 2);
  EXPECT_LT(static_cast<int64_t>(fs::file_size(path)), 1'000'000);
  munmap(done, 4096);
}

TEST(ExtentProcesses, KilledWhileCreating) {
  TempFolder folder(quick_disk());
  const fs::path path = folder / "x";
  Random random(2, 0);
  int64_t before = -1, changed = 0;
  for (int kill_number = 0; kill_number < 100; ++kill_number) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      for (int64_t n = before + 1;; ++n) make_state(*ExtentFile::create(path), n);
    }
    std::this_thread::sleep_for(std::chrono::microseconds(random.below(3000)));
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    if (!fs::exists(path)) continue;
    const int64_t now = check_state(path);
    ASSERT_GE(now, before);
    changed += now > before;
    before = now;
  }
  EXPECT_GT(changed, 10);
}

// What a writer sees on a disk that is full, and what the file holds then.
std::string on_full_disk(const fs::path& path, const std::function<void()>& fill, const std::function<void()>& make_room) {
  const auto file = ExtentFile::create(path);
  const std::string a = pattern(1, 10'000);
  file->add(as_bytes(a));
  file->commit("1");
  fill();
  file->remove(0);
  std::string said = error_of([&] { file->add(as_bytes(pattern(2, 1 << 20))); });
  if (file->extents() != 1) said += " (added)";
  file->add(as_bytes(pattern(3, 9'000)));  // the room of what failed is there again; that of the last commit is not touched
  said += " | " + error_of([&] { file->commit(std::string(1 << 20, 'x')); });
  file->rollback();
  said += " | " + ExtentFile::parse(as_bytes(read_file(path)), "x").root;
  said += content(*file, 0) == a ? " | same" : " | other";
  make_room();
  file->add(as_bytes(pattern(2, 1 << 20)));
  file->commit("2");
  said += " | " + ExtentFile::parse(as_bytes(read_file(path)), "x").root;
  said += content(*file, 0) == a && content(*file, 1) == pattern(2, 1 << 20) ? " | same" : " | other";
  return said;
}

TEST(ExtentProcesses, FullDisk) {
  TempFolder folder;
  const std::string result = in_child([&]() -> std::string {
    if (mount("tmpfs", folder.path().c_str(), "tmpfs", 0, "size=100k") != 0) return "skip";
    const std::string said = on_full_disk(
        folder / "x", [] {}, [&] { mount("tmpfs", folder.path().c_str(), "tmpfs", MS_REMOUNT, "size=4m"); });
    umount(folder.path().c_str());
    return said;
  });
  if (result == "skip") GTEST_SKIP() << "mounting a small tmpfs is not permitted here; FileSizeLimit covers the same path";
  EXPECT_THAT(result, testing::MatchesRegex("ResourceError: cannot write .*/x: No space left on device; make room on its disk; the last "
                                            "commit stays valid . ResourceError: .* . 1 . same . 2 . same"));
}

TEST(ExtentProcesses, FileSizeLimit) {
  TempFolder folder;
  const std::string result = in_child([&] {
    signal(SIGXFSZ, SIG_IGN);
    rlimit before;
    getrlimit(RLIMIT_FSIZE, &before);
    const rlimit limit{100'000, before.rlim_max};
    return on_full_disk(
        folder / "x", [&] { setrlimit(RLIMIT_FSIZE, &limit); }, [&] { setrlimit(RLIMIT_FSIZE, &before); });
  });
  EXPECT_THAT(result,
              testing::MatchesRegex("ResourceError: cannot write .*/x: File too large; make room on its disk; the last commit stays "
                                    "valid . ResourceError: .* . 1 . same . 2 . same"));
}

fs::path failing_path;
std::string at_failure;  // the file's bytes when the disk fails

TEST(ExtentProcesses, FailingDisk) {
  TempFolder folder(quick_disk());
  failing_path = folder / "x";
  const std::string a = pattern(1, 10'000), b = pattern(2, 10'000), c = pattern(3, 9'000);
  for (int failing : {0, 1}) {  // the fsync of the extents, that of the header
    const auto file = ExtentFile::create(failing_path);
    file->add(as_bytes(a));
    file->commit("1");
    file->remove(0);
    file->add(as_bytes(b));
    on_failure = [] { at_failure = read_file(failing_path); };
    syncs_until_failure = failing;
    EXPECT_THAT(error_of([&] { file->commit("2"); }), HasSubstr("x: Input/output error; the last commit stays valid"));
    syncs_until_failure = -1;
    EXPECT_EQ(ExtentFile::parse(as_bytes(at_failure), "x").root, failing == 0 ? "1" : "2");
    EXPECT_EQ(ExtentFile::parse(as_bytes(read_file(failing_path)), "x").root, "1") << "the old header is back";
    file->rollback();
    EXPECT_EQ(content(*file, 0), a);
    EXPECT_EQ(file->add(as_bytes(c)), 1);
    if (failing == 1) {
      // Had the new header reached the disk all the same: it would still name a complete commit.
      std::string bytes = read_file(failing_path);
      bytes.replace(4096, 4096, at_failure, 4096, 4096);
      const ExtentContents contents = ExtentFile::parse(as_bytes(bytes), "x");
      EXPECT_EQ(contents.root, "2");
      EXPECT_EQ(bytes.substr(static_cast<size_t>(contents.extents[0].offset), b.size()), b);
    }
    file->commit("3");
    EXPECT_EQ(ExtentFile::parse(as_bytes(read_file(failing_path)), "x").root, "3");
    EXPECT_EQ(content(*file, 1), c);
  }
}

TEST(ExtentProcessesDeathTest, AFailedCommitMustBeRolledBack) {
  TempFolder folder;
  const auto file = ExtentFile::create(folder / "x");
  syncs_until_failure = 0;
  on_failure = nullptr;
  EXPECT_THAT(error_of([&] { file->commit("1"); }), HasSubstr("Input/output error"));
  syncs_until_failure = -1;
  EXPECT_FALSE(fs::exists(folder / "x"));
  EXPECT_DEATH(file->commit("1"), "takes no commit");
  file->rollback();
  file->commit("1");
  EXPECT_EQ(ExtentFile::parse(as_bytes(read_file(folder / "x")), "x").root, "1");
}

TEST(ExtentProcessesDeathTest, SigbusIsOneLine) {
  TempFolder folder;
  const auto file = ExtentFile::create(folder / "x");
  file->add(as_bytes(pattern(1, 50'000)));
  file->commit("1");
  const auto mapped = file->map(0);
  EXPECT_EXIT(
      {
        install_sigbus_handler();
        if (truncate((folder / "x").c_str(), 8192) != 0) _exit(1);
        std::printf("%d", mapped.get()[40'000]);
      },
      ::testing::ExitedWithCode(2), "^cairn: a mapped file was truncated or its disk failed while in use; [^\n]*\n$");
}

}  // namespace
}  // namespace cairn
