// The three kinds of error (docs/architecture.md, principle 10).
//
//   a bug             CAIRN_CHECK: file, line, expression, values; aborts
//   a user's mistake  UserError: one message that says what, where and how to mend it; the program exits with 2
//   what does not fit ResourceError: the numbers, thrown before work starts; the program exits with 3
//
// Nothing is silently truncated, clamped or ignored.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace cairn {

inline constexpr int kExitUserError = 2;
inline constexpr int kExitResourceError = 3;

// Base of the errors that the program reports in one line.
class Error : public std::runtime_error {
 public:
  Error(const std::string& message, int exit_code) : std::runtime_error(message), exit_code_(exit_code) {}
  int exit_code() const { return exit_code_; }

 private:
  int exit_code_;
};

// The user can mend it: a wrong value, a missing or broken file, an unknown name.
class UserError : public Error {
 public:
  template <typename... Args>
  explicit UserError(fmt::format_string<Args...> format, Args&&... args)
      : Error(fmt::format(format, std::forward<Args>(args)...), kExitUserError) {}
};

// Memory or disk space that is not there; says needed and available amounts.
class ResourceError : public Error {
 public:
  template <typename... Args>
  explicit ResourceError(fmt::format_string<Args...> format, Args&&... args)
      : Error(fmt::format(format, std::forward<Args>(args)...), kExitResourceError) {}
};

// Prints and aborts; used by CAIRN_CHECK only.
[[noreturn]] void check_failed(const char* file, int line, const char* expression, const std::string& message);

}  // namespace cairn

// A bug if false. The optional rest is a fmt format string with its values.
#define CAIRN_CHECK(condition, ...)                                                                       \
  do {                                                                                                    \
    if (!(condition)) [[unlikely]]                                                                        \
      ::cairn::check_failed(__FILE__, __LINE__, #condition, ::cairn::detail::check_message(__VA_ARGS__)); \
  } while (false)

namespace cairn::detail {
inline std::string check_message() { return {}; }
template <typename... Args>
std::string check_message(fmt::format_string<Args...> format, Args&&... args) {
  return fmt::format(format, std::forward<Args>(args)...);
}
}  // namespace cairn::detail
