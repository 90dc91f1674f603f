#include "cairn/core/files.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include "cairn/core/error.h"
#include "core/in_child.h"
#include "core/temp_folder.h"

namespace cairn {
namespace {

using ::testing::HasSubstr;

int64_t files_in(const fs::path& folder) { return std::distance(fs::directory_iterator(folder), fs::directory_iterator()); }

TEST(Files, WritesAndReadsBack) {
  TempFolder folder;
  std::string bytes(100000, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 7);
  write_file(folder / "a", bytes);
  EXPECT_EQ(read_file(folder / "a"), bytes);
  write_file(folder / "a", "");
  EXPECT_EQ(read_file(folder / "a"), "");
  EXPECT_EQ(files_in(folder.path()), 1);
}

TEST(Files, ReadingSaysWhatIsWrong) {
  TempFolder folder;
  EXPECT_THAT(message_of<UserError>([&] { read_file(folder / "no"); }), HasSubstr("no: No such file"));
  EXPECT_THAT(message_of<UserError>([&] { read_file(folder.path()); }), HasSubstr("it is a folder"));
  EXPECT_THAT(message_of<UserError>([&] { MappedFile file(folder.path()); }), HasSubstr("it is a folder"));
  EXPECT_THAT(message_of<UserError>([&] { MappedFile file(folder / "no"); }), HasSubstr("No such file"));
  write_file(folder / "ten", "0123456789");
  EXPECT_EQ(read_file(folder / "ten", 10).size(), 10u);
  EXPECT_THAT(message_of<UserError>([&] { read_file(folder / "ten", 9); }), HasSubstr("larger than the 9 B"));
  EXPECT_THAT(message_of<UserError>([&] { read_file("/dev/zero", 100000); }), HasSubstr("larger than"));  // endless: stops at the limit
}

TEST(Files, ReadsPipes) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  ASSERT_EQ(write(ends[1], "hello", 5), 5);
  close(ends[1]);
  EXPECT_EQ(read_file(fmt::format("/dev/fd/{}", ends[0])), "hello");
  close(ends[0]);
}

TEST(AtomicFile, NothingAppearsWithoutCommit) {
  TempFolder folder;
  write_file(folder / "a", "old");
  {
    AtomicFile file(folder / "a");
    file.write("new text", 8);
    EXPECT_EQ(read_file(folder / "a"), "old");
  }
  EXPECT_EQ(read_file(folder / "a"), "old");
  EXPECT_EQ(files_in(folder.path()), 1);
}

TEST(AtomicFile, PatchesWhatWasWritten) {
  TempFolder folder;
  AtomicFile file(folder / "a");
  file.write("0000", 4);
  file.write("data", 4);
  file.write_at(1, "12", 2);
  EXPECT_EQ(file.size(), 8);
  file.commit();
  EXPECT_EQ(read_file(folder / "a"), "0120data");
}

TEST(AtomicFile, KeepsModeAndFollowsLinks) {
  TempFolder folder;
  write_file(folder / "target", "old");
  ASSERT_EQ(chmod((folder / "target").c_str(), 0640), 0);
  fs::create_symlink("target", folder / "link");
  write_file(folder / "link", "new");
  EXPECT_TRUE(fs::is_symlink(folder / "link"));
  EXPECT_EQ(read_file(folder / "target"), "new");
  struct stat status {};
  ASSERT_EQ(stat((folder / "target").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0640u);
}

TEST(AtomicFile, RefusesWhatIsNoOrdinaryFile) {
  TempFolder folder;
  EXPECT_THAT(message_of<UserError>([&] { write_file(folder.path(), "x"); }), HasSubstr("it is a folder"));
  EXPECT_THAT(message_of<UserError>([&] { write_file("/dev/null", "x"); }), HasSubstr("not an ordinary file"));
  EXPECT_THAT(message_of<UserError>([&] { write_file(folder / "no/such/a", "x"); }), HasSubstr("No such file"));
  EXPECT_THAT(message_of<UserError>([&] { write_file("", "x"); }), HasSubstr("not the name of a file"));
  struct stat status {};
  ASSERT_EQ(stat("/dev/null", &status), 0);
  EXPECT_TRUE(S_ISCHR(status.st_mode));
}

TEST(AtomicFile, CleansUpAfterKilledWriters) {
  TempFolder folder;
  const fs::path stale = folder / ".a.123-0.tmp", fresh = folder / ".a.124-0.tmp", other = folder / ".b.123-0.tmp";
  for (const fs::path& path : {stale, fresh, other}) write_file(path, "x");
  const timespec old_times[2] = {{1000000000, 0}, {1000000000, 0}};
  for (const fs::path& path : {stale, other}) ASSERT_EQ(utimensat(AT_FDCWD, path.c_str(), old_times, 0), 0);
  write_file(folder / "a", "x");
  EXPECT_FALSE(fs::exists(stale));
  EXPECT_TRUE(fs::exists(fresh));
  EXPECT_TRUE(fs::exists(other));
}

TEST(AtomicFile, ALivingWritersTemporaryFileStays) {
  TempFolder folder;
  AtomicFile slow(folder / "a");
  slow.write("slow", 4);
  const timespec old_times[2] = {{1000000000, 0}, {1000000000, 0}};
  for (const auto& entry : fs::directory_iterator(folder.path())) ASSERT_EQ(utimensat(AT_FDCWD, entry.path().c_str(), old_times, 0), 0);
  write_file(folder / "a", "quick");
  slow.commit();
  EXPECT_EQ(read_file(folder / "a"), "slow");
}

TEST(AtomicFile, KilledWriterLeavesTheOldFile) {
  TempFolder folder;
  write_file(folder / "a", "old");
  const pid_t child = fork();
  if (child == 0) {
    AtomicFile file(folder / "a");
    file.write("half of the n", 13);
    kill(getpid(), SIGKILL);
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(read_file(folder / "a"), "old");
}

TEST(AtomicFile, FullDiskKeepsTheOldFile) {
  TempFolder folder;
  const std::string result = in_child([&]() -> std::string {
    if (mount("tmpfs", folder.path().c_str(), "tmpfs", 0, "size=64k") != 0) return "skip";
    write_file(folder / "a", "old");
    const std::string message = message_of<UserError>([&] { write_file(folder / "a", std::string(1 << 20, 'x')); });
    const std::string kept = read_file(folder / "a");
    const int64_t files = files_in(folder.path());
    const std::string space = message_of<ResourceError>([&] { require_free_space(folder.path(), 1 << 20, "the checkpoint"); });
    umount(folder.path().c_str());
    return fmt::format("{} | {} | {} | {}", message, kept, files, space);
  });
  if (result == "skip") GTEST_SKIP() << "mounting a small tmpfs is not permitted here; FileSizeLimit... covers the same path";
  EXPECT_THAT(result, HasSubstr("No space left on device"));
  EXPECT_THAT(result, HasSubstr("| old | 1 |"));
  EXPECT_THAT(result, HasSubstr("the checkpoint needs 1.05 MB"));
}

TEST(AtomicFile, FileSizeLimitKeepsTheOldFile) {
  TempFolder folder;
  write_file(folder / "a", "old");
  const std::string result = in_child([&]() -> std::string {
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{4096, 4096};
    setrlimit(RLIMIT_FSIZE, &limit);
    return message_of<UserError>([&] { write_file(folder / "a", std::string(1 << 20, 'x')); });
  });
  EXPECT_THAT(result, HasSubstr("File too large (after 4096 bytes)"));
  EXPECT_EQ(read_file(folder / "a"), "old");
  EXPECT_EQ(files_in(folder.path()), 1);
}

TEST(MappedFile, MapsTheWholeFile) {
  TempFolder folder;
  write_file(folder / "a", "some bytes");
  const MappedFile file(folder / "a");
  EXPECT_EQ(std::string(file.bytes().begin(), file.bytes().end()), "some bytes");
  write_file(folder / "empty", "");
  EXPECT_TRUE(MappedFile(folder / "empty").bytes().empty());
}

TEST(FolderLock, HoldsOffASecondOwner) {
  TempFolder folder;
  {
    FolderLock lock(folder / "run");
    const std::string message = message_of<UserError>([&] { FolderLock second(folder / "run"); });
    EXPECT_THAT(message, HasSubstr("run is in use by another process"));
    EXPECT_THAT(message, HasSubstr(fmt::format("process {}", getpid())));
    const std::string child = in_child([&] { return message_of<UserError>([&] { FolderLock other(folder / "run"); }); });
    EXPECT_THAT(child, HasSubstr("in use"));
  }
  EXPECT_NO_THROW(FolderLock(folder / "run"));
}

TEST(FreeSpace, AsksTheNearestExistingFolder) {
  TempFolder folder;
  EXPECT_NO_THROW(require_free_space(folder / "not/yet/there", 1, "it"));
  const std::string message = message_of<ResourceError>([&] { require_free_space(folder / "x", int64_t{1} << 60, "the shard"); });
  EXPECT_THAT(message, HasSubstr("the shard needs 1153 PB"));
}

TEST(Memory, IsPlausible) {
  EXPECT_GT(available_memory(), 10 << 20);
  EXPECT_LT(available_memory(), int64_t{1} << 50);
}

TEST(Hash, KnownValues) {
  EXPECT_EQ(hash_bytes(""), 0x2d06800538d394c2ull);  // XXH3, seed 0, as published
  EXPECT_EQ(hash_hex(""), "2d06800538d394c2");
  EXPECT_NE(hash_hex("a"), hash_hex("b"));
}

TEST(Format, Bytes) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(999), "999 B");
  EXPECT_EQ(format_bytes(1500), "1.50 KB");
  EXPECT_EQ(format_bytes(1.5e9), "1.50 GB");
  EXPECT_EQ(format_bytes(231.4e6), "231 MB");
  EXPECT_EQ(format_bytes(23.14e6), "23.1 MB");
  EXPECT_EQ(format_bytes(999.7e6), "1.00 GB");
  EXPECT_EQ(format_bytes(9.999e6), "10.0 MB");
  EXPECT_EQ(format_bytes(-2048), "-2.05 KB");
}

TEST(Format, Lengths) {
  EXPECT_EQ(format_length(1048576), "1M");
  EXPECT_EQ(format_length(65536), "64K");
  EXPECT_EQ(format_length(1000), "1000");
  EXPECT_EQ(format_length(0), "0");
  int64_t n = -1;
  EXPECT_TRUE(parse_length("4K", &n) && n == 4096);
  EXPECT_TRUE(parse_length("1M", &n) && n == 1048576);
  EXPECT_TRUE(parse_length("131072", &n) && n == 131072);
  EXPECT_TRUE(parse_length("2k", &n) && n == 2048);
  for (const char* bad : {"", "K", "-4K", "+4", "4 K", "4KB", "4.5K", "1e3", "9999999999G", "99999999999999999999", "0x10", " 4"}) {
    n = 77;
    EXPECT_FALSE(parse_length(bad, &n)) << bad;
    EXPECT_EQ(n, 77);
  }
  rc::check([] {
    const int64_t value = *rc::gen::inRange<int64_t>(0, int64_t{1} << 50);
    int64_t back = -1;
    RC_ASSERT(parse_length(format_length(value), &back));
    RC_ASSERT(back == value);
  });
}

TEST(Format, Durations) {
  EXPECT_EQ(format_duration(8.2), "8.2s");
  EXPECT_EQ(format_duration(59.97), "1m00s");
  EXPECT_EQ(format_duration(75), "1m15s");
  EXPECT_EQ(format_duration(3599.7), "1h00m");
  EXPECT_EQ(format_duration(3725), "1h02m");
  EXPECT_EQ(format_duration(100 * 3600), "4d04h");
  EXPECT_EQ(format_duration(-1), "?");
  EXPECT_EQ(format_duration(1.0 / 0.0), "?");
}

TEST(CheckDeathTest, SaysWhereAndWhat) {
  EXPECT_DEATH(CAIRN_CHECK(1 + 1 == 3, "sum {}", 2), "files_test.cpp:[0-9]+: internal error: 1 \\+ 1 == 3 is false: sum 2");
}

}  // namespace
}  // namespace cairn
