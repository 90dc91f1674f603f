// A piece of a test in a process of its own, so that limits, mounts and locks do not reach the other tests.
#pragma once

#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <functional>
#include <string>

#include "cairn/core/files.h"

namespace cairn {

// Runs `body` in a child; its result is the text that comes back.
inline std::string in_child(const std::function<std::string()>& body) {
  int ends[2];
  if (pipe(ends) != 0) std::abort();
  const pid_t child = fork();
  if (child == 0) {
    close(ends[0]);
    const std::string text = body();
    [[maybe_unused]] const ssize_t put = write(ends[1], text.data(), text.size());
    _exit(0);
  }
  close(ends[1]);
  const std::string text = read_file(fmt::format("/dev/fd/{}", ends[0]));
  close(ends[0]);
  waitpid(child, nullptr, 0);
  return text;
}

}  // namespace cairn
