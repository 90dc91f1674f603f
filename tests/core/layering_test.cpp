// The rules of docs/architecture.md that a reader of the includes can check.
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "cairn/core/files.h"

namespace cairn {
namespace {

const fs::path kSource = fs::path(CAIRN_SOURCE_DIR);
constexpr int64_t kLongestFile = 600;

// Each room and what it may use besides itself: the table of docs/architecture.md.
const std::map<std::string, std::set<std::string>>& allowed() {
  static const std::map<std::string, std::set<std::string>> rooms = [] {
    std::map<std::string, std::set<std::string>> direct = {
        {"core", {}},
        {"text", {"core"}},
        {"tasks", {"core", "text"}},
        {"dist", {"core"}},
        {"ops", {"core", "dist"}},
        {"pytorch", {"ops"}},
        {"model", {"ops"}},
        {"memory", {"model"}},
        {"infer", {"memory", "text"}},
        {"eval", {"infer", "tasks"}},
        {"train", {"eval"}},
        {"report", {"train"}},
        {"cli", {"report"}},
    };
    // "X and below": close the table over its own arrows.
    for (bool grown = true; grown;) {
      grown = false;
      for (auto& [room, uses] : direct) {
        const std::set<std::string> before = uses;
        for (const std::string& used : before) uses.insert(direct[used].begin(), direct[used].end());
        grown = grown || uses.size() != before.size();
      }
    }
    return direct;
  }();
  return rooms;
}

std::vector<fs::path> sources(const fs::path& folder) {
  std::vector<fs::path> found;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    const std::string extension = entry.path().extension().string();
    if (entry.is_regular_file() && (extension == ".h" || extension == ".cpp" || extension == ".cu" || extension == ".cuh"))
      found.push_back(entry.path());
  }
  return found;
}

std::vector<std::string> includes(const fs::path& path) {
  static const std::regex pattern(R"(^\s*#\s*include\s*[<"]([^>"]+)[>"])");
  std::vector<std::string> found;
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    std::smatch match;
    if (std::regex_search(line, match, pattern)) found.push_back(match[1]);
  }
  return found;
}

std::string room_of(const fs::path& path) { return fs::relative(path, kSource / "src/cairn").begin()->string(); }

TEST(Layering, NoArrowPointsUp) {
  int64_t arrows = 0;
  for (const fs::path& path : sources(kSource / "src/cairn")) {
    const std::string room = room_of(path);
    ASSERT_TRUE(allowed().count(room)) << path << ": the room '" << room << "' is not in the table of docs/architecture.md";
    for (const std::string& include : includes(path)) {
      if (!include.starts_with("cairn/")) continue;
      const std::string used = include.substr(6, include.find('/', 6) - 6);
      ++arrows;
      EXPECT_TRUE(used == room || allowed().at(room).count(used))
          << fs::relative(path, kSource) << " includes " << include << ": " << room << " may not use " << used;
    }
  }
  EXPECT_GT(arrows, 10);
}

TEST(Layering, TheTableIsTheOneOfTheArchitecture) {
  const std::string text = read_file(kSource / "docs/architecture.md");
  for (const auto& [room, uses] : allowed()) EXPECT_NE(text.find("| `" + room + "` |"), std::string::npos) << room;
}

TEST(Layering, TorchFreeRoomsIncludeNoTorch) {
  for (const char* room : {"core", "text", "tasks"}) {
    for (const fs::path& folder : {kSource / "src/cairn" / room, kSource / "tests" / room}) {
      if (!fs::exists(folder)) continue;
      for (const fs::path& path : sources(folder)) {
        for (const std::string& include : includes(path)) {
          for (const char* torch : {"torch/", "ATen/", "c10/", "caffe2/"}) {
            EXPECT_FALSE(include.starts_with(torch)) << fs::relative(path, kSource) << " includes " << include;
          }
        }
      }
    }
  }
}

// torch/torch.h and ATen/ATen.h cost tens of seconds a file; the autograd header belongs only where an autograd function is defined.
TEST(Layering, OnlySlimTorchHeaders) {
  for (const char* top : {"src/cairn", "tests"}) {
    for (const fs::path& path : sources(kSource / top)) {
      if (path.filename() == "layering_test.cpp") continue;
      for (const std::string& include : includes(path)) {
        EXPECT_NE(include, "torch/torch.h") << path;
        EXPECT_NE(include, "ATen/ATen.h") << path;
        EXPECT_NE(include, "torch/extension.h") << path;
        EXPECT_FALSE(include.starts_with("torch/nn")) << path;
      }
    }
  }
}

// CLI11 costs every file that includes it six seconds; commands declare their options through cli/command.h.
TEST(Layering, OneFaceOfTheCommandLineLibrary) {
  const std::set<std::string> those = {"command.cpp", "command_line.cpp", "completion.cpp"};
  int found = 0;
  for (const char* top : {"src/cairn", "tests"}) {
    for (const fs::path& path : sources(kSource / top)) {
      for (const std::string& include : includes(path)) {
        if (!include.starts_with("CLI/")) continue;
        ++found;
        EXPECT_TRUE(those.count(path.filename().string())) << fs::relative(path, kSource) << " includes " << include;
      }
    }
  }
  EXPECT_EQ(found, static_cast<int>(those.size()));
}

// Kernels compile in seconds without torch's headers, and every room compiles without CUDA's.
TEST(Layering, CudaAndTorchMeetInHostFilesOnly) {
  for (const fs::path& path : sources(kSource / "src/cairn")) {
    const std::string name = path.filename().string(), extension = path.extension().string();
    const bool kernel = extension == ".cu" || extension == ".cuh";
    // Headers that kernels and their host files share: launch.h, and those of a folder cuda/, but for the table that every room sees.
    const bool shared = extension == ".h" && path.parent_path().filename() == "cuda" && name != "kernels.h";
    const bool host = name.ends_with("_cuda_host.cpp") || name == "launch.h" || shared;
    for (const std::string& include : includes(path)) {
      const bool cuda =
          include.starts_with("c10/cuda/") || include.starts_with("ATen/cuda/") || include.starts_with("cuda") || include == "mma.h";
      const bool torch = include.starts_with("torch/") || include.starts_with("ATen/") || include.starts_with("c10/");
      if (kernel) {
        EXPECT_FALSE(torch) << fs::relative(path, kSource) << " includes " << include;
      } else if (!host) {
        EXPECT_FALSE(cuda) << fs::relative(path, kSource) << " includes " << include
                           << "; only .cu, *_cuda_host.cpp and the headers between them may";
      }
    }
  }
}

TEST(Layering, FilesStaySmall) {
  for (const char* top : {"src/cairn", "tests"}) {
    for (const fs::path& path : sources(kSource / top)) {
      const std::string text = read_file(path);
      EXPECT_LE(std::count(text.begin(), text.end(), '\n'), kLongestFile) << path;
    }
  }
}

}  // namespace
}  // namespace cairn
