#include "cairn/core/progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cairn/core/log.h"

namespace cairn {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;

TEST(Progress, LastLineIsPrintedOnce) {
  ::testing::internal::CaptureStderr();
  {
    Progress progress("encode", 2000000, "tokens");
    for (int64_t i = 0; i < 2000000; i += 1000) progress.update(i);  // too quick for a line of its own
    progress.update(2000000);
    progress.finish("done well");
    progress.finish();
  }
  EXPECT_THAT(::testing::internal::GetCapturedStderr(),
              MatchesRegex("encode: 2.00M tokens, [0-9.]+[kMGT]? tokens/s, [0-9.]+s, done well\n"));
}

TEST(Progress, AnAbandonedOneSaysNothing) {
  ::testing::internal::CaptureStderr();
  { Progress progress("encode", 10, "tokens"); }
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

TEST(Log, LevelsHavePrefixes) {
  ::testing::internal::CaptureStderr();
  log_debug("hidden {}", 1);
  log_info("read {} tokens", 5);
  log_warn("careful");
  log_error("bad");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "read 5 tokens\nwarning: careful\nerror: bad\n");
}

TEST(StopHandler, FirstSignalIsRememberedSecondEnds) {
  const pid_t child = fork();
  if (child == 0) {
    install_stop_handler();
    if (stop_requested()) _exit(1);
    raise(SIGTERM);
    if (!stop_requested()) _exit(2);
    clear_stop_request();
    if (stop_requested()) _exit(3);
    raise(SIGINT);
    _exit(4);
  }
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFSIGNALED(status)) << "exit code " << WEXITSTATUS(status);
  EXPECT_EQ(WTERMSIG(status), SIGINT);
}

}  // namespace
}  // namespace cairn
