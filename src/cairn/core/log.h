// Log lines to stderr: log_info("read {} tokens", n). Quiet with CAIRN_LOG=warn|error|off, more with CAIRN_LOG=debug.
#pragma once

#include <fmt/format.h>

#include <string>
#include <utility>

namespace cairn {

enum class LogLevel { kDebug, kInfo, kWarn, kError };
void log_line(LogLevel level, const std::string& message);
bool log_enabled(LogLevel level);

template <typename... Args>
void log_debug(fmt::format_string<Args...> f, Args&&... args) {
  log_line(LogLevel::kDebug, fmt::format(f, std::forward<Args>(args)...));
}
template <typename... Args>
void log_info(fmt::format_string<Args...> f, Args&&... args) {
  log_line(LogLevel::kInfo, fmt::format(f, std::forward<Args>(args)...));
}
template <typename... Args>
void log_warn(fmt::format_string<Args...> f, Args&&... args) {
  log_line(LogLevel::kWarn, fmt::format(f, std::forward<Args>(args)...));
}
template <typename... Args>
void log_error(fmt::format_string<Args...> f, Args&&... args) {
  log_line(LogLevel::kError, fmt::format(f, std::forward<Args>(args)...));
}

}  // namespace cairn
