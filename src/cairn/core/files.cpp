#include "cairn/core/files.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <ctime>

#include "cairn/core/error.h"

namespace cairn {
namespace {

constexpr time_t kStaleSeconds = 60;

std::string reason(int error) { return std::strerror(error); }

fs::path folder_of(const fs::path& path) { return path.has_parent_path() ? path.parent_path() : fs::path("."); }

int open_for_reading(const fs::path& path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) throw UserError("cannot read {}: {}", path.string(), reason(errno));
  return descriptor;
}

struct Closing {
  int descriptor;
  ~Closing() { close(descriptor); }
};

std::string temporary_prefix(const fs::path& path) { return "." + path.filename().string() + "."; }

// Temporary files of writers that were killed. A living writer holds a lock on its file; the age covers the moment before it has taken it.
void remove_stale_temporaries(const fs::path& path) {
  const std::string prefix = temporary_prefix(path);
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder_of(path), ignored)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(prefix) || !name.ends_with(".tmp")) continue;
    const int descriptor = open(entry.path().c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (descriptor < 0) continue;
    const Closing closing{descriptor};
    struct stat status {};
    if (fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode) && status.st_mtime + kStaleSeconds < time(nullptr) &&
        flock(descriptor, LOCK_EX | LOCK_NB) == 0) {
      unlink(entry.path().c_str());
    }
  }
}

}  // namespace

std::string read_file(const fs::path& path, int64_t max_bytes) {
  const Closing closing{open_for_reading(path)};
  struct stat status {};
  if (fstat(closing.descriptor, &status) != 0) throw UserError("cannot read {}: {}", path.string(), reason(errno));
  if (S_ISDIR(status.st_mode)) throw UserError("cannot read {}: it is a folder", path.string());
  const int64_t expected = S_ISREG(status.st_mode) ? status.st_size : 0;
  auto too_large = [&] {
    return UserError("{} is larger than the {} that such a file may have", path.string(), format_bytes(static_cast<double>(max_bytes)));
  };
  if (expected > max_bytes) throw too_large();
  std::string bytes;
  // One byte more than expected, so that the end of an ordinary file is seen without growing the buffer; pipes grow as they go.
  bytes.resize(static_cast<size_t>(expected) + 1);
  int64_t filled = 0;
  while (true) {
    if (filled == static_cast<int64_t>(bytes.size())) bytes.resize(std::max<size_t>(65536, bytes.size() * 2));
    const ssize_t got = read(closing.descriptor, bytes.data() + filled, bytes.size() - static_cast<size_t>(filled));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw UserError("cannot read {}: {}", path.string(), reason(errno));
    if (got == 0) break;
    filled += got;
    if (filled > max_bytes) throw too_large();
  }
  bytes.resize(static_cast<size_t>(filled));
  return bytes;
}

void write_file(const fs::path& path, std::string_view bytes) {
  AtomicFile file(path);
  file.write(bytes.data(), static_cast<int64_t>(bytes.size()));
  file.commit();
}

int open_temporary(fs::path* path, fs::path* temporary) {
  if (!path->has_filename() || path->filename() == "." || path->filename() == "..") {
    throw UserError("cannot write '{}': it is not the name of a file", path->string());
  }
  // A symbolic link keeps pointing: its target is what gets replaced.
  std::error_code ignored;
  if (fs::is_symlink(*path, ignored)) {
    const fs::path target = fs::weakly_canonical(*path, ignored);
    if (!target.empty()) *path = target;
  }
  mode_t mode = 0;
  struct stat old {};
  if (stat(path->c_str(), &old) == 0) {
    // Renaming over a device would replace the device.
    if (!S_ISREG(old.st_mode))
      throw UserError("cannot write {}: {}", path->string(), S_ISDIR(old.st_mode) ? "it is a folder" : "it is not an ordinary file");
    mode = old.st_mode & 07777;
  }
  remove_stale_temporaries(*path);
  static std::atomic<int> counter{0};
  int descriptor = -1;
  for (int attempt = 0; attempt < 100 && descriptor < 0; ++attempt) {
    *temporary = folder_of(*path) / fmt::format("{}{}-{}.tmp", temporary_prefix(*path), getpid(), counter++);
    descriptor = open(temporary->c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor < 0 && errno != EEXIST) break;
  }
  if (descriptor < 0) throw UserError("cannot write {}: {}", path->string(), reason(errno));
  flock(descriptor, LOCK_EX | LOCK_NB);  // says that the writer lives; nothing is lost on disks without locks
  if (mode != 0) fchmod(descriptor, mode);
  return descriptor;
}

void sync_folder_of(const fs::path& path) {
  const int folder = open(folder_of(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder >= 0) {  // a folder that may be written but not read cannot be synced
    fsync(folder);
    close(folder);
  }
}

AtomicFile::AtomicFile(fs::path path) : path_(std::move(path)) { descriptor_ = open_temporary(&path_, &temporary_); }

AtomicFile::~AtomicFile() {
  if (descriptor_ < 0) return;
  unlink(temporary_.c_str());
  close(descriptor_);
}

void AtomicFile::write(const void* data, int64_t bytes) {
  CAIRN_CHECK(descriptor_ >= 0, "write after commit of {}", path_.string());
  CAIRN_CHECK(bytes >= 0, "bytes = {}", bytes);
  const char* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t put = ::pwrite(descriptor_, from, static_cast<size_t>(bytes), size_);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) throw UserError("cannot write {}: {} (after {} bytes)", path_.string(), reason(put < 0 ? errno : ENOSPC), size_);
    from += put;
    bytes -= put;
    size_ += put;
  }
}

void AtomicFile::write_at(int64_t offset, const void* data, int64_t bytes) {
  CAIRN_CHECK(descriptor_ >= 0, "write after commit of {}", path_.string());
  CAIRN_CHECK(0 <= offset && 0 <= bytes && offset <= size_ && bytes <= size_ - offset, "offset {}, bytes {}, size {}", offset, bytes,
              size_);
  const char* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t put = ::pwrite(descriptor_, from, static_cast<size_t>(bytes), offset);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) throw UserError("cannot write {}: {}", path_.string(), reason(put < 0 ? errno : ENOSPC));
    from += put;
    bytes -= put;
    offset += put;
  }
}

void AtomicFile::commit() {
  CAIRN_CHECK(descriptor_ >= 0, "second commit of {}", path_.string());
  if (fsync(descriptor_) != 0) throw UserError("cannot write {}: {}", path_.string(), reason(errno));
  if (rename(temporary_.c_str(), path_.c_str()) != 0) throw UserError("cannot write {}: {}", path_.string(), reason(errno));
  const int descriptor = descriptor_;
  descriptor_ = -1;
  // Some network disks report a failed write only here.
  if (close(descriptor) != 0 && errno != EINTR) throw UserError("cannot write {}: {}", path_.string(), reason(errno));
  sync_folder_of(path_);  // the name itself must reach the disk
}

MappedFile::MappedFile(const fs::path& path) {
  const Closing closing{open_for_reading(path)};
  struct stat status {};
  if (fstat(closing.descriptor, &status) != 0) throw UserError("cannot read {}: {}", path.string(), reason(errno));
  if (!S_ISREG(status.st_mode)) {
    throw UserError("cannot read {}: {}", path.string(), S_ISDIR(status.st_mode) ? "it is a folder" : "it is not an ordinary file");
  }
  size_ = status.st_size;
  if (size_ == 0) return;
  void* address = mmap(nullptr, static_cast<size_t>(size_), PROT_READ, MAP_SHARED, closing.descriptor, 0);
  if (address == MAP_FAILED)
    throw UserError("cannot map {} ({}): {}", path.string(), format_bytes(static_cast<double>(size_)), reason(errno));
  data_ = static_cast<const uint8_t*>(address);
}

MappedFile::~MappedFile() {
  if (data_) munmap(const_cast<uint8_t*>(data_), static_cast<size_t>(size_));
}

FolderLock::FolderLock(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw UserError("cannot create the folder {}: {}", folder.string(), error.message());
  const fs::path file = folder / ".lock";
  descriptor_ = open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor_ < 0) throw UserError("cannot lock the folder {}: {}", folder.string(), reason(errno));
  if (flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
    const int why = errno;
    char holder[32] = {};
    const ssize_t got = pread(descriptor_, holder, sizeof holder - 1, 0);
    const std::string_view id(holder, got > 0 ? static_cast<size_t>(got) : 0);
    close(descriptor_);
    if (why != EWOULDBLOCK) throw UserError("cannot lock the folder {}: {}", folder.string(), reason(why));
    throw UserError("the folder {} is in use by another process{}; wait for it, or choose another folder", folder.string(),
                    id.empty() ? std::string() : fmt::format(" ({})", id));
  }
  const std::string id = fmt::format("process {}", getpid());
  // Only for the message above: the lock does not depend on it.
  if (ftruncate(descriptor_, 0) == 0) [[maybe_unused]]
    const ssize_t put = pwrite(descriptor_, id.data(), id.size(), 0);
}

FolderLock::~FolderLock() { close(descriptor_); }

}  // namespace cairn
