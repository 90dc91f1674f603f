#include "cairn/core/log.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string_view>

#include "cairn/core/console.h"

namespace cairn {
namespace console {
namespace {

std::mutex& guard() {
  static std::mutex mutex;
  return mutex;
}
std::string& current_progress() {
  static std::string line;
  return line;
}
void put(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}
constexpr const char* kEraseLine = "\r\x1b[K";

}  // namespace

bool is_terminal() {
  static const bool terminal = isatty(STDERR_FILENO) == 1;
  return terminal;
}

int columns() {
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

void print_line(const std::string& line) {
  std::lock_guard lock(guard());
  const std::string& progress = current_progress();
  put(progress.empty() ? line + "\n" : kEraseLine + line + "\n" + progress);
}

void show_progress(const std::string& line) {
  std::lock_guard lock(guard());
  current_progress() = line;
  put(kEraseLine + line);
}

void finish_progress(const std::string& line) {
  std::lock_guard lock(guard());
  std::string text;
  if (!current_progress().empty()) text = kEraseLine;
  current_progress().clear();
  if (!line.empty()) text += line + "\n";
  put(text);
}

}  // namespace console

namespace {

// Levels below this are not printed; 4 = nothing is.
int threshold() {
  static const int level = [] {
    const char* text = std::getenv("CAIRN_LOG");
    const std::string_view name = text ? text : "info";
    if (name == "debug") return 0;
    if (name == "warn") return 2;
    if (name == "error") return 3;
    if (name == "off") return 4;
    return 1;
  }();
  return level;
}

}  // namespace

bool log_enabled(LogLevel level) { return static_cast<int>(level) >= threshold(); }

void log_line(LogLevel level, const std::string& message) {
  if (!log_enabled(level)) return;
  static constexpr const char* kPrefix[] = {"debug: ", "", "warning: ", "error: "};
  console::print_line(kPrefix[static_cast<int>(level)] + message);
}

}  // namespace cairn
