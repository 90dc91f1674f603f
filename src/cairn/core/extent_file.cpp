// Opening, reading and mapping; extent_writing.cpp writes.
#include "cairn/core/extent_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "cairn/core/error.h"
#include "cairn/core/extent_handle.h"

namespace cairn {
namespace {

constexpr int64_t kReadBytes = int64_t{1} << 20;  // of verify(), at a time

// Opens and locks `path`; again if it was replaced between the two, so that nobody waits for, or writes to, a file that has no name any
// more.
int open_locked(const fs::path& path, bool writable) {
  while (true) {
    // O_NONBLOCK: a named pipe must not keep us waiting; regular files do not care.
    const int descriptor = open(path.c_str(), (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0) throw UserError("cannot open {}: {}", path.string(), std::strerror(errno));
    auto closing = [&](const std::string& message) {
      close(descriptor);
      return UserError("{}", message);
    };
    struct stat opened {};
    if (fstat(descriptor, &opened) != 0) throw closing(fmt::format("cannot open {}: {}", path.string(), std::strerror(errno)));
    if (!S_ISREG(opened.st_mode)) {
      throw closing(
          fmt::format("cannot open {}: {}", path.string(), S_ISDIR(opened.st_mode) ? "it is a folder" : "it is not an ordinary file"));
    }
    if (flock(descriptor, (writable ? LOCK_EX : LOCK_SH) | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK) throw closing(fmt::format("cannot lock {}: {}", path.string(), std::strerror(errno)));
      throw closing(fmt::format("{} is in use: another process {} it; wait for it, or use a copy", path.string(),
                                writable ? "reads or writes" : "writes"));
    }
    struct stat named {};
    if (stat(path.c_str(), &named) != 0 || (named.st_dev == opened.st_dev && named.st_ino == opened.st_ino)) return descriptor;
    close(descriptor);
  }
}

// Fewer bytes than asked for: the file ends.
int64_t read_at(int descriptor, int64_t offset, std::span<uint8_t> out, const fs::path& path) {
  int64_t done = 0;
  while (done < static_cast<int64_t>(out.size())) {
    const ssize_t got = pread(descriptor, out.data() + done, out.size() - static_cast<size_t>(done), offset + done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw UserError("cannot read {}: {}", path.string(), std::strerror(errno));
    if (got == 0) break;
    done += got;
  }
  return done;
}

}  // namespace

ExtentFile::Handle::~Handle() { close(descriptor); }

ExtentFile::ExtentFile(fs::path path, bool writable, std::shared_ptr<Handle> handle)
    : path_(std::move(path)), writable_(writable), handle_(std::move(handle)) {}

std::unique_ptr<ExtentFile> ExtentFile::open(const fs::path& path, bool writable) {
  auto handle = std::make_shared<Handle>(open_locked(path, writable));
  const int descriptor = handle->descriptor;
  std::unique_ptr<ExtentFile> file(new ExtentFile(path, writable, std::move(handle)));
  const std::string name = path.string();
  const int64_t size = file->file_bytes();
  std::vector<uint8_t> head(static_cast<size_t>(std::min(size, kExtentHeadBytes)));
  head.resize(static_cast<size_t>(read_at(descriptor, 0, head, path)));
  const ExtentCommit commit = parse_extent_head(head, size, name);
  std::vector<uint8_t> directory(static_cast<size_t>(commit.directory_bytes));
  if (read_at(descriptor, commit.directory_offset, directory, path) != commit.directory_bytes)
    throw UserError("memory file {}: it was cut off while it was read", name);
  file->committed_ = parse_extent_directory(commit, directory, name);
  file->size_before_ = commit.size;
  file->reset_pending();
  return file;
}

ExtentContents ExtentFile::parse(std::span<const uint8_t> bytes, const std::string& name) {
  const auto size = static_cast<int64_t>(bytes.size());
  const ExtentCommit commit = parse_extent_head(bytes.first(static_cast<size_t>(std::min(size, kExtentHeadBytes))), size, name);
  return parse_extent_directory(
      commit, bytes.subspan(static_cast<size_t>(commit.directory_offset), static_cast<size_t>(commit.directory_bytes)), name);
}

int64_t ExtentFile::file_bytes() const {
  struct stat status {};
  if (fstat(handle_->descriptor, &status) != 0) throw UserError("cannot read {}: {}", path_.string(), std::strerror(errno));
  return status.st_size;
}

int64_t ExtentFile::used_bytes() const {
  if (sequence() == 0) return 0;
  int64_t bytes = kExtentHeadBytes + committed_.commit.directory_bytes;
  for (const Extent& extent : committed_.extents) bytes += extent.bytes;
  return bytes;
}

const Extent& ExtentFile::extent(int64_t id) const {
  if (id < 0 || id >= extents() || extents_[static_cast<size_t>(id)].bytes == 0) {
    throw UserError("memory file {}: there is no extent {}; the file is corrupted", path_.string(), id);
  }
  return extents_[static_cast<size_t>(id)];
}

void ExtentFile::verify(int64_t id) const {
  const Extent& wanted = extent(id);
  std::vector<uint8_t> block(static_cast<size_t>(std::min(wanted.bytes, kReadBytes)));
  const std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> state(XXH3_createState(), XXH3_freeState);
  CAIRN_CHECK(state != nullptr);
  XXH3_64bits_reset(state.get());
  for (int64_t at = 0; at < wanted.bytes;) {
    const int64_t bytes = std::min<int64_t>(wanted.bytes - at, static_cast<int64_t>(block.size()));
    if (read_at(handle_->descriptor, wanted.offset + at, std::span(block).first(static_cast<size_t>(bytes)), path_) != bytes)
      throw UserError("memory file {}: it was cut off while in use", path_.string());
    XXH3_64bits_update(state.get(), block.data(), static_cast<size_t>(bytes));
    at += bytes;
  }
  if (XXH3_64bits_digest(state.get()) != wanted.checksum) {
    throw UserError("memory file {}: the checksum of extent {} ({} bytes at offset {}) disagrees; the file is corrupted", path_.string(),
                    id, wanted.bytes, wanted.offset);
  }
}

std::shared_ptr<uint8_t> ExtentFile::map(int64_t id) const {
  const Extent& wanted = extent(id);
  // Pages may be larger than the alignment of extents.
  const int64_t page = sysconf(_SC_PAGESIZE), begin = wanted.offset / page * page;
  const int64_t inside = wanted.offset - begin, length = inside + wanted.bytes;
  // MAP_NORESERVE: private pages are made only where somebody writes; without it a mapping larger than the memory is refused.
  void* address =
      mmap(nullptr, static_cast<size_t>(length), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, handle_->descriptor, begin);
  if (address == MAP_FAILED) {
    throw ResourceError("cannot map {} of {}: {}", format_bytes(static_cast<double>(wanted.bytes)), path_.string(), std::strerror(errno));
  }
  // The mapping holds the handle, and with it the lock.
  std::shared_ptr<uint8_t> bytes(static_cast<uint8_t*>(address) + inside,
                                 [address, length, handle = handle_](uint8_t*) { munmap(address, static_cast<size_t>(length)); });
  if (writable_) {
    auto [at, end] = mappings_.equal_range(wanted.offset);
    while (at != end) at = at->second.second.expired() ? mappings_.erase(at) : std::next(at);
    mappings_.emplace(wanted.offset, std::pair(wanted.offset + wanted.bytes, std::weak_ptr<uint8_t>(bytes)));
  }
  return bytes;
}

}  // namespace cairn
