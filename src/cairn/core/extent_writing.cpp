// The writing half of ExtentFile: where extents go, commits, and what happens when a disk refuses.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "cairn/core/error.h"
#include "cairn/core/extent_file.h"
#include "cairn/core/extent_handle.h"

namespace cairn {
namespace {

std::string_view as_text(std::span<const uint8_t> bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

// UserError if another writer has the file open: replacing it would lose that writer's later commits without a word. Readers keep what they
// have mapped. The descriptor (-1: no file) holds a lock until it is closed.
int refuse_a_writer(const fs::path& path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) return -1;
  if (flock(descriptor, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    close(descriptor);
    throw UserError("{} is in use: another process writes it; wait for it, or choose another name", path.string());
  }
  return descriptor;
}

}  // namespace

std::unique_ptr<ExtentFile> ExtentFile::create(const fs::path& path) {
  if (const int other = refuse_a_writer(path); other >= 0) close(other);
  fs::path target = path, temporary;
  const int descriptor = open_temporary(&target, &temporary);
  std::unique_ptr<ExtentFile> file(new ExtentFile(target, true, std::make_shared<Handle>(descriptor)));
  file->temporary_ = temporary;
  file->reset_pending();
  return file;
}

ExtentFile::~ExtentFile() {
  if (!writable_) return;
  if (!temporary_.empty()) {
    unlink(temporary_.c_str());
    return;
  }
  try {
    rollback();
  } catch (const Error&) {
    // the tail stays longer than it must be
  }
  // Mappings that live on keep others from writing, not from reading.
  flock(handle_->descriptor, LOCK_SH | LOCK_NB);
}

void ExtentFile::fail(int error) const {
  const std::string kept = sequence() > 0 ? "; the last commit stays valid" : "";
  if (error == ENOSPC || error == EDQUOT || error == EFBIG)
    throw ResourceError("cannot write {}: {}; make room on its disk{}", path_.string(), std::strerror(error), kept);
  throw UserError("cannot write {}: {}{}", path_.string(), std::strerror(error), kept);
}

void ExtentFile::write_at(int64_t offset, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t put = pwrite(handle_->descriptor, bytes.data(), bytes.size(), offset);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) fail(put < 0 ? errno : ENOSPC);
    bytes.remove_prefix(static_cast<size_t>(put));
    offset += put;
  }
}

void ExtentFile::sync() {
  if (fsync(handle_->descriptor) != 0) fail(errno);
}

void ExtentFile::reset_pending() {
  extents_ = committed_.extents;
  find_free();
}

void ExtentFile::find_free() {
  free_ids_.clear();
  for (int64_t id = 0; id < extents(); ++id) {
    if (extents_[static_cast<size_t>(id)].bytes == 0) free_ids_.insert(free_ids_.end(), id);
  }
  used_.clear();
  if (!writable_) return;
  used_.insert(0, kExtentHeadBytes);
  auto use = [&](int64_t offset, int64_t bytes) { used_.insert(offset, offset + round_up_extent(bytes)); };
  if (sequence() > 0) use(committed_.commit.directory_offset, committed_.commit.directory_bytes);
  for (const auto* list : {&committed_.extents, &extents_, &doubtful_}) {
    for (const Extent& extent : *list) use(extent.offset, extent.bytes);
  }
  // Pages of a private mapping that nobody has touched yet show what the file holds now: its range must stay as it is.
  std::erase_if(mappings_, [](const auto& entry) { return entry.second.second.expired(); });
  for (const auto& [begin, mapping] : mappings_) use(begin, mapping.first - begin);
}

int64_t ExtentFile::allocate(int64_t bytes) {
  const int64_t room = round_up_extent(bytes), offset = used_.first_fit(room);
  used_.insert(offset, offset + room);
  return offset;
}

int64_t ExtentFile::add(std::span<const uint8_t> bytes) {
  CAIRN_CHECK(writable_ && !failed_, "{} takes no extents", path_.string());
  CAIRN_CHECK(!bytes.empty(), "an empty extent");
  const auto size = static_cast<int64_t>(bytes.size());
  const Extent extent = {allocate(size), size, hash_bytes(as_text(bytes))};
  try {
    write_at(extent.offset, as_text(bytes));
  } catch (const Error&) {
    find_free();
    cut_tail();
    throw;
  }
  // Not needed for safety: commit() waits less, and less memory is dirty.
  sync_file_range(handle_->descriptor, extent.offset, size, SYNC_FILE_RANGE_WRITE);
  if (free_ids_.empty()) {
    extents_.push_back(extent);
    return extents() - 1;
  }
  const int64_t id = *free_ids_.begin();
  free_ids_.erase(free_ids_.begin());
  extents_[static_cast<size_t>(id)] = extent;
  return id;
}

void ExtentFile::remove(int64_t id) {
  CAIRN_CHECK(writable_ && !failed_, "{} takes no changes", path_.string());
  extent(id);  // must be there
  // Its range stays in used_ until the commit; then find_free() finds out.
  extents_[static_cast<size_t>(id)] = {};
  free_ids_.insert(id);
}

// On failure the slot holds what it held before, as far as the disk allows. Should the new one have reached the disk all the same, it names
// a complete commit as long as nothing overwrites that one's extents: they stay out of use until a later commit has replaced the slot.
void ExtentFile::write_slot(const ExtentCommit& next) {
  const int64_t offset = extent_slot_offset(next.sequence);
  std::string before(kExtentSlotBytes, '\0');
  const ssize_t got = pread(handle_->descriptor, before.data(), before.size(), offset);
  if (got < 0) fail(errno);  // a file that ends here had zeros
  try {
    write_at(offset, extent_slot(next));
    sync();
  } catch (const Error&) {
    doubtful_ = extents_;
    doubtful_.push_back({next.directory_offset, next.directory_bytes, 0});
    if (pwrite(handle_->descriptor, before.data(), before.size(), offset) > 0) fsync(handle_->descriptor);
    throw;
  }
}

void ExtentFile::commit(std::string_view root) {
  CAIRN_CHECK(writable_ && !failed_, "{} takes no commit", path_.string());
  while (!extents_.empty() && extents_.back().bytes == 0) extents_.pop_back();
  free_ids_.erase(free_ids_.lower_bound(extents()), free_ids_.end());
  const std::string directory = extent_directory(extents_, root);
  failed_ = true;  // until all is done
  if (static_cast<int64_t>(directory.size()) > kMaxExtentDirectoryBytes) {
    throw UserError("cannot write {}: its directory would have {}, at most {} are possible", path_.string(),
                    format_bytes(static_cast<double>(directory.size())), format_bytes(static_cast<double>(kMaxExtentDirectoryBytes)));
  }
  if (sequence() == kMaxExtentCommits)
    throw UserError("cannot write {}: it has had all the commits that its format counts", path_.string());
  ExtentCommit next = {.sequence = sequence() + 1,
                       .directory_offset = allocate(static_cast<int64_t>(directory.size())),
                       .directory_bytes = static_cast<int64_t>(directory.size()),
                       .directory_checksum = hash_bytes(directory)};
  next.size = next.directory_offset + round_up_extent(next.directory_bytes);
  for (const Extent& extent : extents_) next.size = std::max(next.size, extent.offset + round_up_extent(extent.bytes));
  write_at(next.directory_offset, directory);
  if (file_bytes() < next.size && ftruncate(handle_->descriptor, next.size) != 0) fail(errno);
  sync();
  write_slot(next);
  if (!temporary_.empty()) {
    const int other = refuse_a_writer(path_);
    const bool renamed = rename(temporary_.c_str(), path_.c_str()) == 0;
    const int error = errno;
    if (other >= 0) close(other);
    if (!renamed) fail(error);
    temporary_.clear();
    sync_folder_of(path_);
  }
  failed_ = false;
  size_before_ = committed_.commit.size;
  committed_ = {next, extents_, std::string(root)};
  doubtful_.clear();
  find_free();
  cut_tail();
}

void ExtentFile::rollback() {
  CAIRN_CHECK(writable_, "{} is open for reading", path_.string());
  failed_ = false;
  reset_pending();
  cut_tail();
}

// Gives the disk back what lies behind everything in use. The commit before the last keeps its bytes: should the newest header ever become
// unreadable, there is something to fall back to. That it fails does no harm.
void ExtentFile::cut_tail() {
  const int64_t end = std::max({used_.end(), committed_.commit.size, size_before_});
  if (file_bytes() > end) [[maybe_unused]]
    const int result = ftruncate(handle_->descriptor, end);
}

}  // namespace cairn
