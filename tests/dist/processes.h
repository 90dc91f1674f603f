// Runs one test of this very program in several processes at once: fork, exec of /proc/self/exe with RANK and friends set.
// The test that runs there begins with `if (!in_helper()) GTEST_SKIP()`.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

namespace cairn::testing {

inline bool in_helper() { return std::getenv("CAIRN_TEST_HELPER") != nullptr; }

// A TCP port of the loopback that was free a moment ago.
inline int free_port() {
  const int descriptor = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  bind(descriptor, reinterpret_cast<sockaddr*>(&address), size);
  getsockname(descriptor, reinterpret_cast<sockaddr*>(&address), &size);
  close(descriptor);
  return ntohs(address.sin_port);
}

// Starts `test` of this program in a process of its own with the given environment; returns its process id.
inline pid_t start_helper(const std::string& test, const std::vector<std::pair<std::string, std::string>>& environment) {
  const pid_t pid = fork();
  if (pid != 0) return pid;
  setenv("CAIRN_TEST_HELPER", "1", 1);
  for (const auto& [name, value] : environment) setenv(name.c_str(), value.c_str(), 1);
  const std::string filter = "--gtest_filter=" + test;
  execl("/proc/self/exe", "/proc/self/exe", filter.c_str(), static_cast<char*>(nullptr));
  _exit(127);
}

// The exit status of a helper (128 + signal if one ended it).
inline int wait_helper(pid_t pid) {
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// `size` processes of one world; the exit status of each.
inline std::vector<int> end_codes(const std::string& test, int size, std::vector<std::pair<std::string, std::string>> environment = {}) {
  const std::string port = std::to_string(free_port());
  std::vector<pid_t> pids;
  for (int rank = 0; rank < size; ++rank) {
    std::vector<std::pair<std::string, std::string>> own = {{"RANK", std::to_string(rank)},
                                                            {"LOCAL_RANK", std::to_string(rank)},
                                                            {"WORLD_SIZE", std::to_string(size)},
                                                            {"MASTER_ADDR", "127.0.0.1"},
                                                            {"MASTER_PORT", port},
                                                            {"CAIRN_DIST_TIMEOUT", "60"}};
    own.insert(own.end(), environment.begin(), environment.end());
    pids.push_back(start_helper(test, own));
  }
  std::vector<int> codes;
  for (const pid_t pid : pids) codes.push_back(wait_helper(pid));
  return codes;
}

// The same; true if all pass.
inline bool run_world(const std::string& test, int size, const std::vector<std::pair<std::string, std::string>>& environment = {}) {
  const std::vector<int> codes = end_codes(test, size, environment);
  return std::all_of(codes.begin(), codes.end(), [](int code) { return code == 0; });
}

}  // namespace cairn::testing
