// What people type wrongly, and what the program says to it: one clear line, exit code 2 (or 3), nothing raw.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cairn/core/json.h"
#include "cli/run_program.h"

namespace cairn {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

// One line on stderr, the exit code, nothing on stdout, and no trace of the libraries inside.
void expect_mistake(const std::string& arguments, int code, const std::string& part) {
  SCOPED_TRACE("cairn " + arguments);
  const Said said = run_program(arguments);
  EXPECT_EQ(said.code, code) << said.err;
  EXPECT_EQ(lines_in(said.err), 1) << said.err;
  EXPECT_THAT(said.err, StartsWith("cairn"));
  EXPECT_THAT(said.err, HasSubstr(part));
  for (const char* raw : {"terminate", "what()", "exception", "Exception", "json.", "c10::", "std::", "Backtrace", "frame #"}) {
    EXPECT_THAT(said.err, Not(HasSubstr(raw)));
  }
  EXPECT_EQ(said.out, "");
}

TEST(Program, HelpAndVersion) {
  const Said help = run_program("--help");
  EXPECT_EQ(help.code, 0);
  for (const char* command : {"train", "read", "ask", "generate", "edit", "join", "eval", "perplexity", "report", "inspect", "demo",
                              "tokenizer", "shard", "check", "bench", "config", "info", "doctor", "completion"}) {
    EXPECT_THAT(help.out, HasSubstr(std::string("\n  ") + command + " "));
    const Said said = run_program(std::string(command) + " --help");
    EXPECT_EQ(said.code, 0) << command;
    EXPECT_THAT(said.out, HasSubstr("--help")) << command;
    EXPECT_EQ(said.err, "") << command;
  }
  const Said version = run_program("--version");
  EXPECT_EQ(version.code, 0);
  EXPECT_THAT(version.out, StartsWith("cairn " CAIRN_VERSION " (LibTorch 2.11"));
}

TEST(Program, MistypedWordsComeWithTheNearest) {
  expect_mistake("", 2, "a command is required; known: ");
  expect_mistake("tarin", 2, "unknown command 'tarin'; did you mean 'train'?");
  expect_mistake("Train x.toml", 2, "did you mean 'train'?");
  expect_mistake("banana", 2, "unknown command 'banana'; known: ");
  expect_mistake("--verison", 2, "unknown option '--verison'; did you mean '--version'?");
  expect_mistake("config shwo", 2, "cairn config: unknown command 'shwo'; did you mean 'show'?");
  expect_mistake("config", 2, "cairn config: a command is required; known: show");
  expect_mistake("config show --plian", 2, "cairn config show: unknown option '--plian'; did you mean '--plain'?");
  expect_mistake("eval --lenghts 4K model", 2, "unknown option '--lenghts'; did you mean '--lengths'?");
  expect_mistake("eval model --lenghts=4K", 2, "unknown option '--lenghts'; did you mean '--lengths'?");
  expect_mistake("doctor now", 2, "unexpected argument 'now'");
  expect_mistake("info", 2, "PATH is required");
  expect_mistake("config show --json --plain", 2, "excludes");
  expect_mistake("eval model --samples many", 2, "--samples");
  expect_mistake("eval model --samples 0", 2, "--samples");
  expect_mistake("train", 2, "CONFIG is required");
}

TEST(Program, ConfigShow) {
  const Said said = run_program("config show");
  EXPECT_EQ(said.code, 0) << said.err;
  EXPECT_THAT(said.out, HasSubstr("[model]\n"));
  EXPECT_THAT(said.out, HasSubstr("\n# window = "));
  EXPECT_THAT(run_program("config show --set model.window=4K").out, HasSubstr("\nwindow = 4096\n"));
  const auto json = parse_json(run_program("config show --json --set model.window=65 --set model.chunk=32").out, "json");
  EXPECT_EQ(json["model"]["window"], 65);
  EXPECT_EQ(json["model"]["chunk"], 32);

  // What it prints is a configuration again, with the same meaning.
  TempFolder folder;
  const std::string plain = run_program("config show --plain --set model.window=65").out;
  write_file(folder / "c.toml", plain);
  EXPECT_EQ(run_program("config show --plain " + (folder / "c.toml").string()).out, plain);
}

TEST(Program, ConfigMistakes) {
  TempFolder folder;
  const std::string file = (folder / "c.toml").string();
  expect_mistake("config show " + file, 2, "c.toml: No such file or directory");
  expect_mistake("config show " + folder.path().string(), 2, "it is a folder");
  expect_mistake("config show --set model.widnow=5", 2, "unknown option 'model.widnow'; did you mean 'model.window'?");
  expect_mistake("config show --set model.window=0", 2, "option 'model.window' must be");
  expect_mistake("config show --set model.window", 2, "expected NAME=VALUE");
  const std::pair<const char*, const char*> cases[] = {
      {"[model]\nwidnow = 5\n", "c.toml:2: unknown option 'model.widnow'; did you mean 'model.window'?"},
      {"[model]\nwindow = \"wide\"\n", "c.toml:2: option 'model.window' must be an integer"},
      {"[model]\nwindow = -3\n", "c.toml:2: option 'model.window' must be"},
      {"[model\n", "c.toml:1: not valid TOML"},
      {"\xff\xfe\x00", "c.toml:1: not valid TOML"},
  };
  for (const auto& [text, part] : cases) {
    write_file(file, text);
    expect_mistake("config show " + file, 2, part);
    expect_mistake("train " + file + " --run " + (folder / "run").string(), 2, part);
    EXPECT_FALSE(fs::exists(folder / "run")) << "nothing is made before the configuration is understood";
  }
}

TEST(Program, ShippedConfigurationsAreValid) {
  int64_t seen = 0;
  for (const auto& entry : fs::directory_iterator(fs::path(CAIRN_SOURCE_DIR) / "configs")) {
    if (entry.path().extension() != ".toml") continue;
    ++seen;
    const Said said = run_program("config show '" + entry.path().string() + "'");
    EXPECT_EQ(said.code, 0) << entry.path() << ": " << said.err;
  }
  EXPECT_GE(seen, 1);
}

TEST(Program, InfoOnBrokenFiles) {
  TempFolder folder;
  auto path = [&](const std::string& name, const std::string& bytes) {
    write_file(folder / name, bytes);
    return (folder / name).string();
  };
  expect_mistake("info " + (folder / "none").string(), 2, "no such file or folder");
  expect_mistake("info " + folder.path().string(), 2, "neither a checkpoint");
  expect_mistake("info " + path("empty.safetensors", ""), 2, "the file is empty");
  expect_mistake("info " + path("short.safetensors", "1234"), 2, "not a safetensors file");
  expect_mistake("info " + path("huge.safetensors", std::string("\0\0\0\0\0\0\0\x10{}", 10)), 2, "claims 1152921504606846976 bytes");
  expect_mistake("info " + path("bad.safetensors", std::string("\2\0\0\0\0\0\0\0{{", 10)), 2, "not valid JSON");
  expect_mistake("info " + path("x.shard", "CAIRNTOK"), 2, "x.shard");
  expect_mistake("info " + path("x.model", "nonsense"), 2, "x.model");
  expect_mistake("info " + path("x.txt", "just some text\n"), 2, "neither weights (.safetensors) nor a token shard");
  fs::create_directory(folder / "ck");
  path("ck/config.json", "{}");
  expect_mistake("info " + (folder / "ck").string(), 2, "has no model.safetensors");
  path("ck/model.safetensors", std::string("\2\0\0\0\0\0\0\0{}", 10));
  expect_mistake("info " + (folder / "ck").string(), 2, "ck");
  path("ck/config.json", "[1");
  expect_mistake("info " + (folder / "ck").string(), 2, "config.json");
  EXPECT_EQ(run_program("info " + path("ok.safetensors", std::string("\2\0\0\0\0\0\0\0{}", 10))).code, 0);
}

TEST(Program, MissingFilesOfEveryCommand) {
  const TempFolder folder;
  const auto path = [&](const char* name) { return (folder / name).string(); };
  expect_mistake("train /nonexistent/c.toml --run " + path("run"), 2, "/nonexistent/c.toml");
  expect_mistake("eval /nonexistent/model", 2, "/nonexistent/model");
  expect_mistake("report /nonexistent/run -o " + path("report.html"), 2, "/nonexistent/run");
  expect_mistake("shard /nonexistent/a.txt --tokenizer bytes -o " + path("a.shard"), 2, "/nonexistent/a.txt");
  expect_mistake("tokenizer encode --tokenizer /nonexistent/t.model", 2, "/nonexistent/t.model");
  expect_mistake("check --oracle /nonexistent", 2, "/nonexistent");
}

TEST(Program, AFullOutputIsNotSuccess) {
  const Said said = run_program("config show > /dev/full");
  EXPECT_EQ(said.code, 1);
  EXPECT_THAT(said.err, HasSubstr("cannot write to standard output"));
}

TEST(Program, DoctorSaysWhatTheMachineIs) {
  const Said said = run_program("doctor");
  EXPECT_EQ(said.code, 0) << said.err;
  for (const char* row : {"CPU ", "cores", "LibTorch", "memory", "disk", "GFLOP/s", "GPU"}) EXPECT_THAT(said.out, HasSubstr(row));
  EXPECT_THAT(said.out, HasSubstr("Cairn can work here"));
}

}  // namespace
}  // namespace cairn
