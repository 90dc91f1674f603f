// What this machine can still give: memory (with cgroup limits) and disk space.
#include <sys/statvfs.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <limits>
#include <sstream>

#include "cairn/core/error.h"
#include "cairn/core/files.h"

namespace cairn {
namespace {

constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();

// The number in a one-line file; "max", absent or malformed: `otherwise`.
int64_t number_in(const fs::path& path, int64_t otherwise) {
  std::ifstream in(path);
  int64_t value = 0;
  return in >> value ? value : otherwise;
}

// "name 123" or "name: 123 kB" lines; the number of `name`, or `otherwise`.
int64_t field_in(const fs::path& path, std::string_view name, int64_t otherwise) {
  std::ifstream in(path);
  std::string line;
  while (std::getline(in, line)) {
    std::istringstream words(line);
    std::string key;
    int64_t value = 0;
    if (words >> key >> value && (key == name || key == std::string(name) + ":")) return value;
  }
  return otherwise;
}

// What one control group still allows; page cache that the kernel would drop does not count as used.
int64_t group_left(const fs::path& group, const char* limit_name, const char* usage_name, const char* cache_name) {
  const int64_t limit = number_in(group / limit_name, kUnlimited);
  if (limit == kUnlimited || limit > (int64_t{1} << 60)) return kUnlimited;
  const int64_t used = number_in(group / usage_name, 0) - field_in(group / "memory.stat", cache_name, 0);
  return std::max<int64_t>(0, limit - std::max<int64_t>(0, used));
}

// The smallest rest over the process's group and all groups above it. Inside a container the path of /proc/self/cgroup may not exist below
// the mount: then the mount's own root is this container's group.
int64_t groups_left(const fs::path& mount, std::string group, const char* limit_name, const char* usage_name, const char* cache_name) {
  int64_t left = group_left(mount, limit_name, usage_name, cache_name);
  while (group.size() > 1) {
    left = std::min(left, group_left(mount / group.substr(1), limit_name, usage_name, cache_name));
    group.resize(group.find_last_of('/'));
  }
  return left;
}

}  // namespace

int64_t available_memory() {
  int64_t left = kUnlimited;
  const int64_t kilobytes = field_in("/proc/meminfo", "MemAvailable", -1);
  if (kilobytes >= 0) left = kilobytes * 1024;
  std::ifstream groups("/proc/self/cgroup");
  std::string line;
  while (std::getline(groups, line)) {  // hierarchy:controllers:path
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1), path = line.substr(second + 1);
    if (controllers.empty()) {
      left = std::min(left, groups_left("/sys/fs/cgroup", path, "memory.max", "memory.current", "inactive_file"));
    } else if (("," + controllers + ",").find(",memory,") != std::string::npos) {
      left = std::min(left,
                      groups_left("/sys/fs/cgroup/memory", path, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"));
    }
  }
  return left;
}

void require_free_space(const fs::path& folder, int64_t bytes, std::string_view what) {
  // The folder may not exist yet: ask the nearest one above it that does.
  fs::path existing = fs::absolute(folder);
  std::error_code ignored;
  while (!fs::exists(existing, ignored) && existing != existing.root_path()) existing = existing.parent_path();
  struct statvfs disk {};
  if (statvfs(existing.c_str(), &disk) != 0)
    throw UserError("cannot ask for the free space of {}: {}", existing.string(), std::strerror(errno));
  const double available = static_cast<double>(disk.f_bavail) * static_cast<double>(disk.f_frsize);
  if (available < static_cast<double>(bytes)) {
    throw ResourceError("{} needs {} on the disk of {}, but only {} are free; make room or choose another folder", what,
                        format_bytes(static_cast<double>(bytes)), folder.string(), format_bytes(available));
  }
}

}  // namespace cairn
