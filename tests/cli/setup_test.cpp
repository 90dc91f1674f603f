// scripts/setup.sh on machines that are not this one: the system's commands are replaced by small ones that say what they were asked.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "cli/run_program.h"

namespace cairn {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class Setup : public ::testing::Test {
 protected:
  Setup() {
    fs::create_directories(folder_ / "scripts");
    fs::create_directories(folder_ / "bin");
    fs::copy_file(fs::path(CAIRN_SOURCE_DIR) / "scripts/setup.sh", folder_ / "scripts/setup.sh");
    command("id", "echo 0");
    command("dpkg-query", "echo 'install ok installed'");
    command("apt-get", "echo \"apt-get $*\" >> \"$LOG\"");
    command("sudo", "exit 1");
    command("df", "printf 'h\\nx 1 1 99999999 1 /\\n'");
    // "-m pip install ... --target DIR ..." makes what pip would make.
    command("python3", R"(echo "python3 $*" >> "$LOG"
[ -e "$ROOT/no-pip" ] && exit 1
case "$*" in *--version*) exit 0 ;; esac
while [ "$1" != --target ]; do shift; done
mkdir -p "$2/torch/include/ATen" "$2/torch/lib" "$2/torch-2.11.0.dist-info"
touch "$2/torch/include/ATen/ATen.h"
[ -e "$ROOT/interrupt" ] && exit 1
touch "$2/torch/lib/libtorch_cpu.so"
mkdir -p "$2/nvidia_cuda_runtime-13.0.96.dist-info" "$2/nvidia_cuda_cupti-13.0.85.dist-info")");
  }

  void command(const std::string& name, const std::string& body) {
    const fs::path path = folder_ / ("bin/" + name);
    write_quickly(path, "#!/bin/sh\n" + body + "\n");
    chmod(path.c_str(), 0755);
  }

  // Runs setup.sh; standard output and error together in `text_`.
  int run(const std::string& environment = {}) {
    const std::string root = folder_.path().string();
    const std::string line = "ROOT=" + root + " LOG=" + root + "/log PATH=" + root + "/bin:$PATH CAIRN_TORCH= " + environment + " " + root +
                             "/scripts/setup.sh > " + root + "/out 2>&1 < /dev/null";
    const int status = std::system(line.c_str());
    text_ = read_file(folder_ / "out");
    log_ = fs::exists(folder_ / "log") ? read_file(folder_ / "log") : "";
    return WEXITSTATUS(status);
  }

  TempFolder folder_;
  std::string text_, log_;
};

TEST_F(Setup, InstallsLibTorchOnceAndThenIsQuick) {
  EXPECT_EQ(run(), 0) << text_;
  EXPECT_TRUE(fs::exists(folder_ / ".deps/torch/torch/lib/libtorch_cpu.so"));
  EXPECT_FALSE(fs::exists(folder_ / ".deps/torch.new"));
  EXPECT_THAT(log_, HasSubstr("torch==2.11.0 nvidia-cuda-runtime==13.0.* nvidia-cuda-cupti==13.0.*"));
  EXPECT_THAT(log_, HasSubstr("--no-deps"));
  EXPECT_THAT(log_, Not(HasSubstr("apt-get")));
  fs::remove(folder_ / "log");
  EXPECT_EQ(run(), 0) << text_;
  EXPECT_EQ(log_, "");
  EXPECT_THAT(text_, HasSubstr("all is there (LibTorch 2.11.0 in .deps/torch)"));
}

TEST_F(Setup, AnInterruptedInstallationIsDoneAgain) {
  write_quickly(folder_ / "interrupt", "");
  EXPECT_EQ(run(), 2);
  EXPECT_THAT(text_, HasSubstr("pip could not install LibTorch"));
  EXPECT_FALSE(fs::exists(folder_ / ".deps/torch"));
  fs::remove(folder_ / "interrupt");
  EXPECT_EQ(run(), 0) << text_;
  EXPECT_TRUE(fs::exists(folder_ / ".deps/torch/torch/lib/libtorch_cpu.so"));
}

TEST_F(Setup, RootInstallsWhatIsMissing) {
  command("dpkg-query", R"(case "$*" in *libzstd-dev*) exit 1 ;; esac; echo 'install ok installed')");
  EXPECT_EQ(run(), 0) << text_;
  EXPECT_THAT(log_, HasSubstr("install -y -qq --no-install-recommends libzstd-dev\n"));
}

TEST_F(Setup, OthersAreToldTheExactCommand) {
  command("id", "echo 1000");
  command("dpkg-query", R"(case "$*" in *libzstd-dev*|*libgloo-dev*) exit 1 ;; esac; echo 'install ok installed')");
  EXPECT_EQ(run(), 2);
  EXPECT_THAT(text_, HasSubstr("sudo apt-get update && sudo apt-get install -y --no-install-recommends libzstd-dev libgloo-dev\n"));
  EXPECT_EQ(log_, "");
  command("sudo", "shift; [ $# = 1 ] && exit 0; exec \"$@\"");  // sudo that asks no password
  EXPECT_EQ(run(), 0) << text_;
  EXPECT_THAT(log_, HasSubstr("libzstd-dev libgloo-dev"));
}

TEST_F(Setup, MissingPipIsSaid) {
  write_quickly(folder_ / "no-pip", "");
  EXPECT_EQ(run(), 2);
  EXPECT_THAT(text_, HasSubstr("python3 has neither pip nor venv"));
  EXPECT_THAT(log_, HasSubstr("install -y -qq --no-install-recommends python3-venv"));
}

TEST_F(Setup, AFullDiskIsSaidBeforeTheDownload) {
  command("df", "printf 'h\\nx 1 1 100000 1 /\\n'");
  EXPECT_EQ(run(), 2);
  EXPECT_THAT(text_, HasSubstr("LibTorch needs 3.5 GB for download and unpacking, but only 100 MB are free"));
  EXPECT_EQ(log_, "");
}

TEST_F(Setup, AGivenLibTorchIsUsed) {
  EXPECT_EQ(run("CAIRN_TORCH=/nonexistent"), 2);
  EXPECT_THAT(text_, HasSubstr("CAIRN_TORCH=/nonexistent holds no LibTorch"));
  fs::create_directories(folder_ / "own/torch/include/ATen");
  fs::create_directories(folder_ / "own/torch/lib");
  write_quickly(folder_ / "own/torch/include/ATen/ATen.h", "");
  write_quickly(folder_ / "own/torch/lib/libtorch_cpu.so", "");
  for (const char* place : {"own", "own/torch"}) EXPECT_EQ(run("CAIRN_TORCH=" + (folder_ / place).string()), 0) << text_;
  EXPECT_EQ(log_, "");
  EXPECT_FALSE(fs::exists(folder_ / ".deps/torch"));
}

}  // namespace
}  // namespace cairn
