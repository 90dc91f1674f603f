#include <unistd.h>

#include <csignal>
#include <string_view>

#include "cairn/core/error.h"
#include "cairn/core/files.h"

namespace cairn {
namespace {

// Only what a signal handler may call: write(2) and _exit(2).
void on_sigbus(int) {
  constexpr std::string_view kMessage =
      "cairn: a mapped file was truncated or its disk failed while in use; make sure that no other program writes to Cairn's files, check "
      "the "
      "disk, and start again\n";
  [[maybe_unused]] const ssize_t put = write(STDERR_FILENO, kMessage.data(), kMessage.size());
  _exit(kExitUserError);
}

}  // namespace

void install_sigbus_handler() {
  struct sigaction action {};
  action.sa_handler = on_sigbus;
  sigemptyset(&action.sa_mask);
  CAIRN_CHECK(sigaction(SIGBUS, &action, nullptr) == 0);
}

}  // namespace cairn
