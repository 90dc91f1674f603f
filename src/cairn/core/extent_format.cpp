#include "cairn/core/extent_format.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstring>
#include <limits>
#include <numeric>
#include <optional>

#include "cairn/core/error.h"
#include "cairn/core/files.h"

namespace cairn {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr char kMagic[8] = {'C', 'A', 'I', 'R', 'N', 'M', 'E', 'M'};
constexpr uint32_t kVersion = 1;

// A slot as it lies in the file; zeros follow up to kExtentSlotBytes.
struct Slot {
  char magic[8];
  uint32_t version;
  uint32_t reserved;
  uint64_t sequence;
  uint64_t directory_offset, directory_bytes, directory_checksum;
  uint64_t size;
  uint8_t reserved_too[64];
  uint64_t checksum;  // XXH3-64 of the 120 bytes before
};
static_assert(sizeof(Slot) == 128 && offsetof(Slot, size) == 48 && offsetof(Slot, checksum) == 120);

struct Row {
  uint64_t offset, bytes, checksum;
};
static_assert(sizeof(Row) == 24);

uint64_t hash(std::span<const uint8_t> bytes) { return hash_bytes({reinterpret_cast<const char*>(bytes.data()), bytes.size()}); }

[[noreturn]] void corrupted(const std::string& name, const std::string& what) {
  throw UserError("memory file {}: {}; the file is cut off or corrupted", name, what);
}

// The slot at `offset` if its magic and its checksum are right.
std::optional<Slot> valid_slot(std::span<const uint8_t> head, int64_t offset, bool* has_magic) {
  if (static_cast<int64_t>(head.size()) < offset + kExtentSlotBytes) return std::nullopt;
  const auto bytes = head.subspan(static_cast<size_t>(offset), sizeof(Slot));
  Slot slot;
  std::memcpy(&slot, bytes.data(), sizeof(slot));
  if (std::memcmp(slot.magic, kMagic, sizeof(kMagic)) != 0) return std::nullopt;
  *has_magic = true;
  if (hash(bytes.first(offsetof(Slot, checksum))) != slot.checksum) return std::nullopt;
  return slot;
}

bool all_zero(std::span<const uint8_t> bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](uint8_t byte) { return byte == 0; });
}

// Whether a range of the file may hold an extent or the directory.
bool is_range(uint64_t offset, uint64_t bytes, uint64_t size) {
  return offset % kExtentAlignment == 0 && offset >= static_cast<uint64_t>(kExtentHeadBytes) && offset <= size && bytes <= size - offset;
}

}  // namespace

int64_t extent_slot_offset(int64_t sequence) { return sequence % 2 == 1 ? 0 : kExtentSlotBytes; }

ExtentCommit parse_extent_head(std::span<const uint8_t> head, int64_t file_bytes, const std::string& name) {
  bool has_magic = false;
  std::optional<Slot> newest = valid_slot(head, 0, &has_magic);
  int64_t at = 0;
  if (const auto other = valid_slot(head, kExtentSlotBytes, &has_magic); other && (!newest || other->sequence > newest->sequence)) {
    newest = other;
    at = kExtentSlotBytes;
  }
  if (!newest) {
    if (has_magic) corrupted(name, "neither of its headers has the right checksum");
    const bool begins = head.size() >= sizeof(kMagic) && std::memcmp(head.data(), kMagic, sizeof(kMagic)) == 0;
    if (begins) corrupted(name, "it ends within its headers");
    throw UserError("{} is not a memory file (it does not begin with CAIRNMEM)", name);
  }
  if (newest->version != kVersion) {
    throw UserError("memory file {}: version {}, this program reads version {}; use the program that wrote it, or a newer one", name,
                    newest->version, kVersion);
  }
  // A checksum is no proof of good will: every number is checked.
  const auto rest = head.subspan(static_cast<size_t>(at) + sizeof(Slot), kExtentSlotBytes - sizeof(Slot));
  if (newest->reserved != 0 || !all_zero(newest->reserved_too) || !all_zero(rest))
    corrupted(name, "reserved bytes of its header are not 0");
  if (newest->sequence < 1 || newest->sequence > static_cast<uint64_t>(kMaxExtentCommits) ||
      extent_slot_offset(static_cast<int64_t>(newest->sequence)) != at)
    corrupted(name, fmt::format("commit {} in header {}", newest->sequence, at == 0 ? 'A' : 'B'));
  if (newest->size > static_cast<uint64_t>(file_bytes))
    corrupted(name, fmt::format("it has {} bytes, but its last commit needs {}", file_bytes, newest->size));
  if (newest->size > static_cast<uint64_t>(kMaxExtentFileBytes)) corrupted(name, fmt::format("a size of {} bytes", newest->size));
  if (newest->directory_bytes < sizeof(uint64_t) || newest->directory_bytes > static_cast<uint64_t>(kMaxExtentDirectoryBytes) ||
      !is_range(newest->directory_offset, newest->directory_bytes, newest->size)) {
    corrupted(name, fmt::format("a directory of {} bytes at offset {}", newest->directory_bytes, newest->directory_offset));
  }
  return {.sequence = static_cast<int64_t>(newest->sequence),
          .directory_offset = static_cast<int64_t>(newest->directory_offset),
          .directory_bytes = static_cast<int64_t>(newest->directory_bytes),
          .directory_checksum = newest->directory_checksum,
          .size = static_cast<int64_t>(newest->size)};
}

ExtentContents parse_extent_directory(const ExtentCommit& commit, std::span<const uint8_t> directory, const std::string& name) {
  CAIRN_CHECK(static_cast<int64_t>(directory.size()) == commit.directory_bytes, "{} bytes for {}", directory.size(),
              commit.directory_bytes);
  if (hash(directory) != commit.directory_checksum) corrupted(name, "the checksum of its directory disagrees");
  uint64_t count = 0;
  std::memcpy(&count, directory.data(), sizeof(count));
  const auto rows = directory.subspan(sizeof(count));
  if (count > rows.size() / sizeof(Row)) corrupted(name, fmt::format("{} extents in a directory of {} bytes", count, directory.size()));
  ExtentContents contents{.commit = commit};
  contents.extents.resize(count);
  std::vector<std::pair<int64_t, int64_t>> ranges;  // begin, end
  ranges.emplace_back(commit.directory_offset, commit.directory_offset + commit.directory_bytes);
  for (uint64_t id = 0; id < count; ++id) {
    Row row;
    std::memcpy(&row, rows.data() + id * sizeof(Row), sizeof(row));
    if (row.bytes == 0) {
      if (row.offset != 0 || row.checksum != 0) corrupted(name, fmt::format("extent {} has 0 bytes", id));
      continue;
    }
    if (!is_range(row.offset, row.bytes, static_cast<uint64_t>(commit.size)))
      corrupted(name, fmt::format("extent {} has {} bytes at offset {}", id, row.bytes, row.offset));
    contents.extents[id] = {static_cast<int64_t>(row.offset), static_cast<int64_t>(row.bytes), row.checksum};
    ranges.emplace_back(contents.extents[id].offset, contents.extents[id].offset + contents.extents[id].bytes);
  }
  std::sort(ranges.begin(), ranges.end());
  for (size_t i = 1; i < ranges.size(); ++i) {
    if (ranges[i].first < ranges[i - 1].second) corrupted(name, fmt::format("extents overlap at offset {}", ranges[i].first));
  }
  const auto root = rows.subspan(count * sizeof(Row));
  contents.root.assign(reinterpret_cast<const char*>(root.data()), root.size());
  return contents;
}

std::string extent_slot(const ExtentCommit& commit) {
  Slot slot = {};
  std::memcpy(slot.magic, kMagic, sizeof(kMagic));
  slot.version = kVersion;
  slot.sequence = static_cast<uint64_t>(commit.sequence);
  slot.directory_offset = static_cast<uint64_t>(commit.directory_offset);
  slot.directory_bytes = static_cast<uint64_t>(commit.directory_bytes);
  slot.directory_checksum = commit.directory_checksum;
  slot.size = static_cast<uint64_t>(commit.size);
  slot.checksum = hash_bytes({reinterpret_cast<const char*>(&slot), offsetof(Slot, checksum)});
  std::string bytes(kExtentSlotBytes, '\0');
  std::memcpy(bytes.data(), &slot, sizeof(slot));
  return bytes;
}

std::string extent_directory(std::span<const Extent> extents, std::string_view root) {
  std::string bytes(sizeof(uint64_t) + extents.size() * sizeof(Row), '\0');
  const uint64_t count = extents.size();
  std::memcpy(bytes.data(), &count, sizeof(count));
  for (size_t id = 0; id < extents.size(); ++id) {
    const Extent& extent = extents[id];
    const Row row = {static_cast<uint64_t>(extent.offset), static_cast<uint64_t>(extent.bytes), extent.checksum};
    std::memcpy(bytes.data() + sizeof(count) + id * sizeof(Row), &row, sizeof(row));
  }
  return bytes.append(root);
}

}  // namespace cairn
