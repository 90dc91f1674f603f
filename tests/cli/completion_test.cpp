// `cairn completion`: scripts that the shells accept, and that offer just what the program takes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <regex>
#include <set>
#include <sstream>

#include "cli/run_program.h"

namespace cairn {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

bool have(const std::string& program) { return std::system(("command -v " + program + " > /dev/null 2>&1").c_str()) == 0; }

// Lines that a shell command prints; the command must succeed.
std::vector<std::string> lines_of(const std::string& command) {
  TempFolder folder;
  const fs::path out = folder / "out";
  EXPECT_EQ(std::system(("{ " + command + "; } > '" + out.string() + "'").c_str()), 0) << command;
  std::istringstream text(read_file(out));
  std::vector<std::string> lines;
  for (std::string line; std::getline(text, line);) lines.push_back(line);
  return lines;
}

class Completion : public ::testing::Test {
 protected:
  fs::path script(const std::string& shell) {
    const Said said = run_program("completion " + shell);
    EXPECT_EQ(said.code, 0) << said.err;
    EXPECT_EQ(said.err, "");
    const fs::path path = folder_ / ("cairn." + shell);
    write_file(path, said.out);
    return path;
  }

  // What bash offers when the last of `words` is to be completed.
  std::vector<std::string> offered(const std::vector<std::string>& words) {
    if (bash_.empty()) bash_ = script("bash");
    std::string program = "source \"" + bash_.string() + "\"; COMP_WORDS=(";
    for (const std::string& word : words) program += " \"" + word + "\"";
    program += " ); COMP_CWORD=" + std::to_string(words.size() - 1) + "; _cairn; for w in \"${COMPREPLY[@]}\"; do echo \"$w\"; done";
    return lines_of("bash --norc -c '" + program + "'");
  }

  TempFolder folder_;
  fs::path bash_;
};

TEST_F(Completion, BashCompletesCommandsOptionsAndChoices) {
  if (!have("bash")) GTEST_SKIP() << "no bash here";
  EXPECT_TRUE(lines_of("bash -n '" + script("bash").string() + "' 2>&1").empty());
  EXPECT_THAT(offered({"cairn", "ev"}), ElementsAre("eval"));
  EXPECT_THAT(offered({"cairn", "eval", "--sam"}), ElementsAre("--samples"));
  EXPECT_THAT(offered({"cairn", "eval", "model", "--json", "x", "--sam"}), ElementsAre("--samples"));
  EXPECT_THAT(offered({"cairn", "tokenizer", "tr"}), ElementsAre("train"));
  EXPECT_THAT(offered({"cairn", "tokenizer", "train", "--sam"}), ElementsAre("--sample-bytes"));
  EXPECT_THAT(offered({"cairn", "bench", ""}), ElementsAre("ops", "read", "train", "memory"));
  EXPECT_THAT(offered({"cairn", "eval", "--precision", ""}), ElementsAre("auto", "fp32", "bf16"));
  EXPECT_THAT(offered({"cairn", "eval", "--precision", "=", "b"}), ElementsAre("bf16"));
  EXPECT_THAT(offered({"cairn", "eval", "--device", "="}), ElementsAre("cpu", "cuda"));
  EXPECT_THAT(offered({"cairn", "completion", ""}), ElementsAre("bash", "zsh", "fish"));
  EXPECT_THAT(offered({"cairn", "eval", "--samples", "e"}), IsEmpty()) << "a number, no command";
  EXPECT_THAT(offered({"cairn", "eval", "ev"}), IsEmpty()) << "a command comes once";
  EXPECT_THAT(offered({"cairn", "--ver"}), ElementsAre("--version"));
}

// Long options that a command's help names at the beginning of a line.
std::vector<std::string> options_in(const std::string& help) {
  static const std::regex pattern(R"(^  (?:-\w,)?(--[a-z-]+))");
  std::vector<std::string> names;
  std::istringstream text(help);
  for (std::string line; std::getline(text, line);) {
    std::smatch match;
    if (std::regex_search(line, match, pattern)) names.push_back(match[1]);
  }
  return names;
}

// Commands that a help lists under "Subcommands:".
std::vector<std::string> commands_in(const std::string& help) {
  std::vector<std::string> names;
  std::istringstream text(help);
  bool listed = false;
  for (std::string line; std::getline(text, line);) {
    if (line == "Subcommands:") {
      listed = true;
    } else if (listed && line.size() > 2 && line.starts_with("  ") && line[2] != ' ') {
      names.push_back(line.substr(2, line.find(' ', 2) - 2));
    } else if (line.empty()) {
      listed = false;
    }
  }
  return names;
}

TEST_F(Completion, NothingThatHelpNamesIsMissing) {
  if (!have("bash")) GTEST_SKIP() << "no bash here";
  std::vector<std::vector<std::string>> paths = {{}};
  size_t options = 0;
  for (size_t i = 0; i < paths.size(); ++i) {
    std::string typed;
    std::vector<std::string> words = {"cairn"};
    for (const std::string& word : paths[i]) typed += word + " ", words.push_back(word);
    SCOPED_TRACE(typed);
    const std::string help = run_program(typed + "--help").out;
    words.emplace_back("--");
    const std::vector<std::string> named = options_in(help), found = offered(words);
    EXPECT_THAT(named, Contains("--help"));
    EXPECT_EQ(std::set<std::string>(found.begin(), found.end()), std::set<std::string>(named.begin(), named.end()));
    options += named.size();
    const std::vector<std::string> commands = commands_in(help);
    if (commands.empty()) continue;
    words.back() = "";
    EXPECT_EQ(offered(words), commands);
    for (const std::string& command : commands) {
      paths.push_back(paths[i]);
      paths.back().push_back(command);
    }
  }
  EXPECT_GE(paths.size(), 20u);
  EXPECT_GE(options, 80u);
}

TEST_F(Completion, ZshAcceptsItsScript) {
  const fs::path path = script("zsh");
  EXPECT_THAT(read_file(path), HasSubstr("--precision="));
  EXPECT_THAT(read_file(path), HasSubstr(":value:(auto fp32 bf16)"));
  if (!have("zsh")) GTEST_SKIP() << "no zsh here: its script was not parsed";
  EXPECT_THAT(lines_of("zsh -n '" + path.string() + "' 2>&1"), IsEmpty());
}

TEST_F(Completion, FishCompletes) {
  const fs::path path = script("fish");
  EXPECT_THAT(read_file(path), HasSubstr(" -l precision -x -a 'auto fp32 bf16'"));
  if (!have("fish")) GTEST_SKIP() << "no fish here: its script was not run";
  const auto completed = [&](const std::string& line) {
    return lines_of("fish -c 'source \"" + path.string() + "\"; complete -C \"" + line + "\"' | cut -f 1");
  };
  EXPECT_THAT(completed("cairn ev"), ElementsAre("eval"));
  EXPECT_THAT(completed("cairn eval --sam"), ElementsAre("--samples"));
  EXPECT_THAT(completed("cairn bench "), ElementsAre("ops", "read", "train", "memory"));
}

TEST_F(Completion, UnknownShellsAreNamed) {
  const Said said = run_program("completion powershell");
  EXPECT_EQ(said.code, 2);
  EXPECT_THAT(said.err, HasSubstr("{bash,zsh,fish}"));
  EXPECT_EQ(said.out, "");
}

TEST(Inspect, WritesThePageOrOneClearLine) {
  TempFolder folder;
  const std::string answers = (folder / "first.json").string(), page = (folder / "first.html").string();
  write_file(answers,
             R"({"kind": "cairn.answers", "version": 1, "model": "m", "fingerprint": "0123456789abcdef", "memory": "", "command": "c",
      "created": "2026-11-22T01:02:03Z", "chunk": 64, "memory_tokens": 128, "documents": [{"name": "a.txt", "begin_chunk": 0, "end_chunk": 2,
      "bytes": 400}], "chunks": [{"chunk": 1, "document": 0, "begin": 200, "end": 400, "text": "t", "before": "b", "after": ""}],
      "questions": [{"question": "Who?", "answer": "x", "seconds": 0.1, "tokens": [{"text": "x", "probability": 0.5, "reads":
      [{"retrieval": 0, "chunk": 1, "weight": 1}]}]}]})");
  Said said = run_program("inspect '" + answers + "'");
  EXPECT_EQ(said.code, 0) << said.err;
  EXPECT_EQ(said.out, page + "\n");
  EXPECT_THAT(read_file(page), HasSubstr("Who?"));
  said = run_program("inspect '" + answers + "' -o '" + (folder / "other.html").string() + "'");
  EXPECT_EQ(said.code, 0) << said.err;
  EXPECT_EQ(read_file(folder / "other.html"), read_file(page));
  write_file(folder / "bad.json", R"({"kind": "cairn.answers"})");
  said = run_program("inspect '" + (folder / "bad.json").string() + "'");
  EXPECT_EQ(said.code, 2);
  EXPECT_EQ(lines_in(said.err), 1);
  EXPECT_THAT(said.err, HasSubstr("bad.json: the field \"version\" is missing"));
  EXPECT_THAT(said.err, Not(HasSubstr("exception")));
  EXPECT_FALSE(fs::exists(folder / "bad.html"));
}

}  // namespace
}  // namespace cairn
