// The bytes of an extent file (docs/formats.md, "Extent files"): header slots and directory, parsed from and put into memory. Everything
// that is parsed counts as hostile: each number is checked against the file's size before it is used.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace cairn {

inline constexpr int64_t kExtentAlignment = 4096;      // of extents and of the directory
inline constexpr int64_t kExtentSlotBytes = 4096;      // a header slot
inline constexpr int64_t kExtentHeadBytes = 2 * 4096;  // both
// Offsets plus whole extents stay far from the end of 63 bits; some file systems have (sparse) files as large as that.
inline constexpr int64_t kMaxExtentFileBytes = int64_t{1} << 62;
inline constexpr int64_t kMaxExtentCommits = int64_t{1} << 62;
inline constexpr int64_t kMaxExtentDirectoryBytes = int64_t{256} << 20;

struct Extent {
  int64_t offset = 0, bytes = 0;  // bytes 0: a free id
  uint64_t checksum = 0;          // XXH3-64
};

// What a header slot says.
struct ExtentCommit {
  int64_t sequence = 0;  // 0: nothing is committed yet
  int64_t directory_offset = 0, directory_bytes = 0;
  uint64_t directory_checksum = 0;
  int64_t size = 0;  // no extent and no directory reaches beyond it
};

struct ExtentContents {
  ExtentCommit commit;
  std::vector<Extent> extents;  // by id
  std::string root;
};

// The commit that is the state of a file of `file_bytes` bytes that begins with `head` (its first kExtentHeadBytes, or all of a shorter
// file). UserError "NAME: ..." if there is none, or if its numbers do not fit the file.
ExtentCommit parse_extent_head(std::span<const uint8_t> head, int64_t file_bytes, const std::string& name);

// The directory of `commit`, whose bytes are given. UserError for a wrong checksum, too many extents, extents that overlap, are not aligned
// or leave the file.
ExtentContents parse_extent_directory(const ExtentCommit& commit, std::span<const uint8_t> directory, const std::string& name);

std::string extent_slot(const ExtentCommit& commit);  // kExtentSlotBytes
int64_t extent_slot_offset(int64_t sequence);         // where the slot of that commit lies
std::string extent_directory(std::span<const Extent> extents, std::string_view root);

inline int64_t round_up_extent(int64_t bytes) { return (bytes + kExtentAlignment - 1) / kExtentAlignment * kExtentAlignment; }

}  // namespace cairn
