// Runs the built program the way a person does, and keeps what it said.
#pragma once

#include <sys/wait.h>

#include <cstdlib>
#include <string>

#include "cairn/core/files.h"
#include "core/temp_folder.h"

namespace cairn {

struct Said {
  int code = -1;  // exit code; 128 + signal if one ended it
  std::string out, err;
};

// `arguments` as typed into a shell; standard output may be redirected there ("... > /dev/full").
inline Said run_program(const std::string& arguments, const std::string& environment = {}) {
  TempFolder folder(quick_disk());
  const fs::path program = fs::path(CAIRN_BUILD_DIR) / "cairn";
  const std::string command = "{ " + environment + " '" + program.string() + "' " + arguments + "; } > '" + (folder / "out").string() +
                              "' 2> '" + (folder / "err").string() + "' < /dev/null";
  const int status = std::system(command.c_str());
  Said said;
  said.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  said.out = read_file(folder / "out");
  said.err = read_file(folder / "err");
  return said;
}

inline int64_t lines_in(const std::string& text) {
  int64_t lines = 0;
  for (char c : text) lines += c == '\n';
  return lines;
}

}  // namespace cairn
