// Files appear whole or not at all: temporary file in the same folder, fsync, rename, fsync of the folder.
#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace cairn {

namespace fs = std::filesystem;

// The whole file as bytes. UserError if it cannot be read or is larger than `max_bytes`.
std::string read_file(const fs::path& path, int64_t max_bytes = int64_t{1} << 32);

// Replaces `path` atomically. UserError (with the system's reason) on failure; the old file then stays as it was.
void write_file(const fs::path& path, std::string_view bytes);

// Streamed atomic writing: write() as often as needed, then commit(). Without commit nothing appears under `path`.
class AtomicFile {
 public:
  explicit AtomicFile(fs::path path);
  ~AtomicFile();  // removes the temporary file if not committed
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  void write(const void* data, int64_t bytes);
  void write_at(int64_t offset, const void* data, int64_t bytes);  // within what was written already (patching a header)
  int64_t size() const { return size_; }
  void commit();  // fsync, rename, fsync of the folder

 private:
  fs::path path_, temporary_;
  int descriptor_ = -1;
  int64_t size_ = 0;
};

// For writers of whole files: a new empty file (read and write) in the folder of `path`, with the mode of the file that is there, locked
// (flock) as a sign that its writer lives. Where `path` is a symbolic link it becomes its target. `temporary`: the new file's name. Returns
// its descriptor. UserError if `path` cannot be written.
int open_temporary(fs::path* path, fs::path* temporary);
// Brings names in the folder of `path` to the disk.
void sync_folder_of(const fs::path& path);

// A read-only mapping of a whole file; empty files map to an empty span.
class MappedFile {
 public:
  explicit MappedFile(const fs::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  std::span<const uint8_t> bytes() const { return {data_, static_cast<size_t>(size_)}; }

 private:
  const uint8_t* data_ = nullptr;
  int64_t size_ = 0;
};

// An exclusive lock on a folder (flock on FOLDER/.lock), so that two processes never share a run. UserError naming the folder if it is
// taken.
class FolderLock {
 public:
  explicit FolderLock(const fs::path& folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int descriptor_ = -1;
};

// A mapped file that another program cuts off while it is read, or whose disk fails, raises SIGBUS: from now on the program then says so in
// one line and exits with kExitUserError.
void install_sigbus_handler();

// ResourceError with the numbers if fewer than `bytes` are free on the disk that holds `folder`.
void require_free_space(const fs::path& folder, int64_t bytes, std::string_view what);

// Available physical memory of this machine (respects a cgroup limit), bytes.
int64_t available_memory();

// 64-bit xxHash (XXH3) of bytes, and its 16-digit hexadecimal form.
uint64_t hash_bytes(std::string_view bytes);
std::string hash_hex(std::string_view bytes);

// "1.50 GB", "231 MB"; decimal units.
std::string format_bytes(double bytes);
// 1048576 -> "1M", 65536 -> "64K", 1000 -> "1000" (binary units only where exact).
std::string format_length(int64_t tokens);
// "4K" -> 4096, "1M" -> 1048576, "131072" -> 131072; nothing if malformed, negative or too large.
bool parse_length(std::string_view text, int64_t* tokens);
// 3725 s -> "1h02m", 75 -> "1m15s", 8.2 -> "8.2s".
std::string format_duration(double seconds);

}  // namespace cairn
