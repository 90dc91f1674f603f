// A file that changes by transactions: extents (byte ranges) and a root text, of which a reader sees either all of one commit or all of the
// next. Format byte by byte in docs/formats.md, "Extent files". Killed at any moment, the file holds its last commit or the new one.
//
// One thread at a time uses an object; what map() returned may be used and let go by any thread.
//
// Locks: shared while open for reading, exclusive while open for writing. Mappings keep the lock of their file, because they must not see
// what a later writer makes of it; those of a file object that was open for writing and is gone keep a shared one.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cairn/core/extent_format.h"
#include "cairn/core/files.h"
#include "cairn/core/range_set.h"

namespace cairn {

class ExtentFile {
 public:
  // A new file: a temporary one in the same folder that becomes `path` (replacing what is there) at the first commit(); without it nothing
  // appears. UserError: `path` cannot be written, or another writer has it open.
  static std::unique_ptr<ExtentFile> create(const fs::path& path);
  // The last commit. UserError: missing, not such a file, truncated, corrupt, newer version, locked by another process.
  static std::unique_ptr<ExtentFile> open(const fs::path& path, bool writable);
  // Header and directory of a file's bytes given whole; no other bytes are looked at. UserError "memory file NAME: ...".
  static ExtentContents parse(std::span<const uint8_t> bytes, const std::string& name);
  ~ExtentFile();  // forgets what is not committed
  ExtentFile(const ExtentFile&) = delete;
  ExtentFile& operator=(const ExtentFile&) = delete;

  const fs::path& path() const { return path_; }
  const std::string& root() const { return committed_.root; }                // of the last commit
  int64_t sequence() const { return committed_.commit.sequence; }            // of the last commit; 0: none yet
  int64_t extents() const { return static_cast<int64_t>(extents_.size()); }  // ids are below; pending ones included
  int64_t file_bytes() const;
  int64_t used_bytes() const;  // what the last commit refers to: headers, directory, extents
  // Pending ones included. UserError naming the file if the id is out of range or free (ids come from a root that is not trusted).
  const Extent& extent(int64_t id) const;
  bool holds(int64_t id) const { return id >= 0 && id < extents() && extents_[id].bytes > 0; }
  void verify(int64_t id) const;  // compares the checksum; UserError
  // The bytes of an extent, mapped privately and writable (MAP_PRIVATE: writes stay in this mapping). The mapping lives as long as the
  // pointer, also after the file object is gone, the extent is removed or the file is replaced. ResourceError if it cannot be mapped.
  std::shared_ptr<uint8_t> map(int64_t id) const;

  // Writing; a bug if the file is not open for writing.
  // An added extent (not empty) is on its way to the disk at once, and part of the file from commit() on. Returns its id, the smallest free
  // one. ResourceError: full disk; UserError: I/O error; nothing is added then.
  int64_t add(std::span<const uint8_t> bytes);
  void remove(int64_t id);  // UserError as of extent(); the bytes are used again after the commit, once nothing maps them
  // ResourceError: full disk; UserError: I/O error. The last commit then stays valid, and only rollback() may follow.
  void commit(std::string_view root);
  void rollback();  // forgets what was added and removed since the last commit

 private:
  struct Handle;
  ExtentFile(fs::path path, bool writable, std::shared_ptr<Handle> handle);
  void reset_pending();  // to the last commit
  void find_free();      // recomputes used_ and free_ids_
  int64_t allocate(int64_t bytes);
  void write_at(int64_t offset, std::string_view bytes);
  void write_slot(const ExtentCommit& next);
  void sync();
  void cut_tail();
  [[noreturn]] void fail(int error) const;

  fs::path path_, temporary_;  // temporary_ is empty once the file has its name
  bool writable_ = false;
  bool failed_ = false;  // a commit: only rollback() may follow
  std::shared_ptr<Handle> handle_;
  ExtentContents committed_;
  int64_t size_before_ = 0;       // of the commit before the last
  std::vector<Extent> extents_;   // the last commit's and what is pending
  std::set<int64_t> free_ids_;    // below extents()
  RangeSet used_;                 // ranges that must not be written
  std::vector<Extent> doubtful_;  // of a commit whose header may or may not have reached the disk
  mutable std::multimap<int64_t, std::pair<int64_t, std::weak_ptr<uint8_t>>> mappings_;  // writable only: begin -> end, pointer
};

}  // namespace cairn
