// Memories through the program: read, ask, edit, join, append, inspect; what it refuses; and kill -9 at random moments of each.
#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <iterator>
#include <sstream>
#include <thread>

#include "cairn/cli/commands.h"
#include "cairn/core/error.h"
#include "cairn/core/json.h"
#include "cairn/core/random.h"
#include "cairn/infer/memory_file.h"
#include "cli/run_program.h"

namespace cairn {
namespace {

using ::testing::HasSubstr;

class MemoryProgram : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TempFolder(quick_disk());
    const std::string config = (fs::path(CAIRN_SOURCE_DIR) / "configs/demo.toml").string();
    for (const int seed : {1, 2}) {
      const Said said =
          run_program(fmt::format("train {} --run {} --set train.tokens=8K --set train.batch_tokens=1K --set train.seed={} --threads 1",
                                  config, path(fmt::format("run{}", seed)), seed));
      ASSERT_EQ(said.code, 0) << said.err;
    }
    std::ifstream words(path("run1/model/tokenizer.model"));
    std::string word;
    std::getline(words, word);  // the header
    while (std::getline(words, word)) words_->push_back(word);
    write_words("a.txt", 1, 3000);
    write_words("b.txt", 2, 1000);
  }
  static void TearDownTestSuite() { delete folder_; }

  static std::string path(const std::string& name) { return (*folder_ / name).string(); }
  static std::string model() { return path("run1/model"); }
  static void write_words(const std::string& name, uint64_t seed, int64_t count) {
    Random random(stream_key({seed}));
    std::string text;
    for (int64_t i = 0; i < count; ++i) text += (i == 0 ? "" : " ") + (*words_)[random.below(std::ssize(*words_))];
    write_file(path(name), text);
  }
  static Said run(const std::string& arguments) { return run_program(arguments + " --threads 1"); }
  static Said expect_success(const std::string& arguments) {
    Said said = run(arguments);
    EXPECT_EQ(said.code, 0) << "cairn " << arguments << "\n" << said.err << said.out;
    return said;
  }
  static void expect_refusal(const std::string& arguments, const std::string& part) {
    const Said said = run(arguments);
    EXPECT_EQ(said.code, 2) << arguments << "\n" << said.err;
    EXPECT_THAT(said.err, HasSubstr(part)) << arguments;
    EXPECT_EQ(lines_in(said.err), 1) << said.err;
  }
  static std::vector<int32_t> ids_in(const std::string& name) {
    const MemoryFile file = MemoryFile::open(path(name), false);
    const TextMemory text = file.load(*file.root().memory, true, at::kCPU);
    std::vector<int32_t> ids(text.tokens.size());
    text.tokens.read(0, ids);
    return ids;
  }

  static inline TempFolder* folder_ = nullptr;
  static inline std::vector<std::string>* words_ = new std::vector<std::string>;
};

TEST_F(MemoryProgram, EightBitMemories) {
  expect_success(fmt::format("read {} {} -o {}", model(), path("a.txt"), path("eight.memory")));
  const std::string ask = fmt::format("ask {} {} -q {} --max-tokens 4", model(), path("eight.memory"), words_->at(3));
  const Said plain = expect_success(ask);
  for (const char* kept : {"--kv-dtype int8", "--landmark-dtype int8", "--kv-dtype int8 --landmark-dtype int8 --ram"}) {
    EXPECT_THAT(expect_success(fmt::format("{} {}", ask, kept)).out, HasSubstr("chunk ")) << kept;
  }
  EXPECT_EQ(expect_success(ask + " --kv-dtype auto --landmark-dtype auto").out, plain.out);
  expect_refusal(ask + " --kv-dtype fp8", "--kv-dtype");
  // Logits: close, and not the same.
  const auto logits = [&](const std::string& options) {
    const std::string file = path("eight.safetensors");
    expect_success(fmt::format("generate {} --memory {} --prompt {} --max-tokens 1 --logits {} {}", model(), path("eight.memory"),
                               words_->at(3), file, options));
    std::ifstream in(file, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
  };
  const std::string exact = logits("");
  EXPECT_EQ(logits("--kv-dtype auto"), exact);
  EXPECT_NE(logits("--kv-dtype int8"), exact);
  expect_success(fmt::format("bench memory 7m --tokens 8K --turns 1 --kv-dtype int8 --landmark-dtype int8 --json {}", path("bench.json")));
  const auto json = nlohmann::json::parse(read_file(path("bench.json"), 1 << 20));
  EXPECT_EQ(json["kv_dtype"], "int8");
  EXPECT_TRUE(json["bit_equal"] && json["save_seconds"].is_null());
}

TEST_F(MemoryProgram, ReadAskEditJoinInspect) {
  EXPECT_THAT(expect_success("read " + model() + " " + path("a.txt") + " -o " + path("a.memory")).out,
              HasSubstr("3000 tokens in 1 documents"));
  expect_success("read " + model() + " " + path("b.txt") + " -o " + path("b.memory"));
  EXPECT_THAT(run_program("info " + path("a.memory") + " --verify").out, HasSubstr("agree"));

  const Said answer = expect_success("ask " + model() + " " + path("a.memory") +
                                     " -q 'ask amber' -q 'ask river then ask' --max-tokens 5 --json " + path("a.json"));
  EXPECT_THAT(answer.out, HasSubstr("a.txt, bytes "));
  const nlohmann::json json = parse_json(read_file(path("a.json")), "a.json");
  ASSERT_EQ(json["questions"].size(), 2u);
  EXPECT_EQ(json["questions"][0]["tokens"].size(), 5u);
  // Text and bytes of a chunk are those of the file.
  const std::string text = read_file(path("a.txt"));
  for (const auto& chunk : json["chunks"]) {
    if (chunk["document"] == -1) continue;
    const std::string said = chunk["text"];
    EXPECT_EQ(text.substr(chunk["begin"].get<size_t>(), said.size()), said);
  }
  EXPECT_EQ(run_program("inspect " + path("a.json") + " -o " + path("a.html")).code, 0);
  EXPECT_THAT(read_file(path("a.html")), HasSubstr("ask amber"));
  // One by one and loaded to main memory: the same answers.
  const Said alone =
      expect_success("ask " + model() + " " + path("a.memory") + " -q 'ask amber' --max-tokens 5 --ram --json " + path("alone.json"));
  EXPECT_EQ(parse_json(read_file(path("alone.json")), "alone.json")["questions"][0]["answer"], json["questions"][0]["answer"]);
  expect_success("generate " + model() + " --memory " + path("a.memory") + " --prompt 'ask amber' --max-tokens 3 --logits " +
                 path("l.safetensors"));
  EXPECT_THAT(run_program("info " + path("l.safetensors")).out, HasSubstr("logits"));

  expect_success("edit " + model() + " " + path("a.memory") + " --at 1001 --text 'amber is river'");
  EXPECT_THAT(expect_success("edit " + model() + " " + path("a.memory") + " --at 1001 --show").out, HasSubstr("amber is river"));
  expect_success("edit " + model() + " " + path("a.memory") + " --at 800 --delete 80");
  EXPECT_THAT(expect_success("edit " + model() + " " + path("a.memory") + " --at 921 --show").out, HasSubstr("amber is river"));
  expect_success("edit " + model() + " " + path("a.memory") + " --at 0 --insert --text 'amber is river amber is river amber is'");
  expect_success("join " + model() + " " + path("a.memory") + " " + path("b.memory") + " -o " + path("ab.memory"));
  EXPECT_THAT(run_program("info " + path("ab.memory")).out, HasSubstr("in 2 documents"));
  expect_success("read " + model() + " " + path("b.txt") + " -o " + path("ab.memory") + " --append");
  const std::vector<int32_t> a = ids_in("a.memory"), b = ids_in("b.memory"), ab = ids_in("ab.memory");
  EXPECT_EQ(std::ssize(a), 3000 - 80 + 8);
  ASSERT_EQ(std::ssize(ab), std::ssize(a) + 2 * std::ssize(b));
  EXPECT_TRUE(std::equal(b.begin(), b.end(), ab.end() - std::ssize(b)));
}

TEST_F(MemoryProgram, RefusesInOneLine) {
  expect_success("read " + model() + " " + path("b.txt") + " -o " + path("r.memory"));
  const std::string ask = "ask " + model() + " " + path("r.memory");
  expect_refusal("ask " + path("run2/model") + " " + path("r.memory") + " -q 'ask amber'", "another model");
  expect_refusal(ask + " -q ''", "empty");
  expect_refusal(ask + " -q 'no such words'", "no");
  expect_refusal(ask + " -q 'ask amber' --top-p 0", "top_p");
  expect_refusal("read " + model() + " " + path("missing.txt") + " -o " + path("x.memory"), "missing.txt");
  expect_refusal("read " + model() + " " + path("b.txt") + " -o " + path("r.memory"), "exists");
  expect_refusal("read " + model() + " " + path("b.txt") + " -o " + path("none.memory") + " --append", "no such memory");
  expect_refusal("edit " + model() + " " + path("r.memory") + " --at 5000 --text amber", "outside");
  expect_refusal("edit " + model() + " " + path("r.memory") + " --at 3 --delete 8", "grid");
  expect_refusal("edit " + model() + " " + path("r.memory") + " --at 3", "--text");
  expect_refusal("join " + model() + " " + path("r.memory") + " " + path("r.memory") + " -o " + path("r.memory") + " --force", "output");
  expect_refusal("ask " + model() + " " + path("b.txt") + " -q 'ask amber'", "b.txt");
  // Cut off, and one bit flipped in every part of the file: found at opening, at loading or by --verify.
  const std::string bytes = read_file(path("r.memory"));
  write_file(path("cut.memory"), bytes.substr(0, bytes.size() / 2));
  expect_refusal("ask " + model() + " " + path("cut.memory") + " -q 'ask amber'", "cut.memory");
  const MemoryFile file = MemoryFile::open(path("r.memory"), false);
  for (int64_t id = 0; id < file.extents().extents(); ++id) {
    if (!file.extents().holds(id)) continue;
    std::string flipped = bytes;
    flipped[file.extents().extent(id).offset] ^= 16;
    write_file(path("flipped.memory"), flipped);
    EXPECT_THROW(MemoryFile::open(path("flipped.memory"), false).verify(), UserError) << "extent " << id;
  }
}

// Starts the program with what it is to read and where it writes; -1: nothing.
pid_t start_program(const std::vector<std::string>& arguments, int in = -1, int out = -1, int err = -1) {
  const pid_t child = fork();
  if (child == 0) {
    const int null = open("/dev/null", O_RDWR);
    dup2(in < 0 ? null : in, 0), dup2(out < 0 ? null : out, 1), dup2(err < 0 ? null : err, 2);
    const std::string program = (fs::path(CAIRN_BUILD_DIR) / "cairn").string();
    std::vector<char*> argv = {const_cast<char*>(program.c_str())};
    for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    execv(program.c_str(), argv.data());
    _exit(127);
  }
  return child;
}

std::vector<std::string> words_of(const std::string& command) {
  std::istringstream in(command + " --threads 1");
  return {std::istream_iterator<std::string>(in), {}};
}

int exit_code(pid_t child) {
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// Starts the program, kills it after `milliseconds`; true if it had ended by itself.
bool killed_after(const std::vector<std::string>& arguments, int64_t milliseconds) {
  const pid_t child = start_program(arguments);
  std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
  kill(child, SIGKILL);
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status);
}

TEST_F(MemoryProgram, CtrlCStopsAReadingAndTheSameCommandGoesOn) {
  write_words("c.txt", 5, 600000);
  const std::string read = "read " + model() + " " + path("c.txt") + " -o " + path("c.memory");
  // The first moment at which it reads already and has not ended yet (before that, the signal just ends it).
  for (int64_t wait = 200; wait <= 6400 && !fs::exists(path("c.memory.part")); wait *= 2) {
    const int err = open(path("c.err").c_str(), O_CREAT | O_TRUNC | O_WRONLY, 0600);
    const pid_t child = start_program(words_of(read), -1, -1, err);
    close(err);
    std::this_thread::sleep_for(std::chrono::milliseconds(wait));
    kill(child, SIGINT);
    ASSERT_EQ(exit_code(child), kExitStopped);
  }
  EXPECT_THAT(read_file(path("c.err")), HasSubstr("the same command goes on"));
  EXPECT_FALSE(fs::exists(path("c.memory")));
  // Other files are refused, and taken when the unfinished reading is given up.
  const std::string other = "read " + model() + " " + path("b.txt") + " -o " + path("c.memory");
  expect_refusal(other, "--force");
  fs::copy_file(path("c.memory.part"), path("given_up.memory.part"));
  expect_success("read " + model() + " " + path("b.txt") + " -o " + path("given_up.memory") + " --force");
  EXPECT_EQ(std::ssize(ids_in("given_up.memory")), 1000);
  const Said on = expect_success(read);
  EXPECT_THAT(on.err, HasSubstr("going on at token"));
  EXPECT_EQ(std::ssize(ids_in("c.memory")), 600000);
}

// A limit on the size of files stands for a full disk; the program must come to hear of it as an error, not as a signal.
TEST_F(MemoryProgram, AFullDiskIsOneLineAndTheOldMemoryStays) {
  expect_success("read " + model() + " " + path("b.txt") + " -o " + path("d.memory"));
  const std::vector<int32_t> before = ids_in("d.memory");
  const auto blocks = static_cast<long long>(fs::file_size(path("d.memory")) / 512 + 40);
  const std::string full = fmt::format("trap '' XFSZ; ulimit -f {};", blocks);
  const auto expect_full = [&](const std::string& arguments, const std::string& name) {
    const Said said = run_program(arguments + " --threads 1", full);
    EXPECT_EQ(said.code, 3) << arguments << "\n" << said.err;
    EXPECT_THAT(said.err, HasSubstr(name)) << arguments;
    EXPECT_FALSE(fs::exists(path("big.memory")));
    EXPECT_EQ(ids_in("d.memory"), before);
    MemoryFile::open(path("d.memory"), false).verify();
  };
  write_words("d.txt", 6, 60000);
  expect_full("read " + model() + " " + path("d.txt") + " -o " + path("big.memory"), "big.memory");
  expect_full("read " + model() + " " + path("d.txt") + " --append -o " + path("d.memory"), "d.memory");
  std::string text;
  for (int i = 0; i < 4000; ++i) text += i == 0 ? "amber" : " amber";
  expect_full("edit " + model() + " " + path("d.memory") + " --at 0 --insert --text '" + text + "'", "d.memory");
  std::string parts;
  for (int i = 0; i < 4; ++i) parts += " " + path("d.memory");
  expect_full("join " + model() + parts + " -o " + path("big.memory"), "big.memory");
  expect_success("read " + model() + " " + path("d.txt") + " --append -o " + path("d.memory"));  // there is room again
  EXPECT_EQ(std::ssize(ids_in("d.memory")), 61000);
}

// Questions through a pipe, one answered, then the file loses its bytes behind the program's back.
TEST_F(MemoryProgram, AMappedFileThatIsCutOffEndsWithOneLine) {
  write_words("t.txt", 7, 60000);
  expect_success("read " + model() + " " + path("t.txt") + " -o " + path("t.memory"));
  int questions[2], answers[2];
  ASSERT_EQ(pipe2(questions, O_CLOEXEC), 0);
  ASSERT_EQ(pipe2(answers, O_CLOEXEC), 0);
  const int err = open(path("t.err").c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
  const pid_t child = start_program(words_of("ask " + model() + " " + path("t.memory") + " --max-tokens 2"), questions[0], answers[1], err);
  close(questions[0]), close(answers[1]), close(err);
  const std::string line = "ask amber\n";
  ASSERT_EQ(write(questions[1], line.data(), line.size()), std::ssize(line));
  char byte = 0;
  ASSERT_EQ(::read(answers[0], &byte, 1), 1);  // it answers
  ASSERT_EQ(truncate(path("t.memory").c_str(), 4096), 0);
  for (int i = 0; i < 20; ++i) ASSERT_EQ(write(questions[1], line.data(), line.size()), std::ssize(line));
  close(questions[1]);
  while (::read(answers[0], &byte, 1) == 1) {
  }
  close(answers[0]);
  EXPECT_EQ(exit_code(child), 2);
  EXPECT_EQ(lines_in(read_file(path("t.err"))), 1) << read_file(path("t.err"));
}

TEST_F(MemoryProgram, KilledAtAnyMomentTheFileIsTheOldOrTheNewState) {
  write_words("long.txt", 3, 40000);
  write_words("more.txt", 4, 40000);
  Random random(stream_key({99}));
  const auto seconds_of = [&](const std::string& command) {
    const auto begin = std::chrono::steady_clock::now();
    expect_success(command);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  int64_t kills = 0, ended = 0;
  // Kills `command` again and again from the state `before` until `turns` are done; the file must hold `before` or `after`.
  const auto torture = [&](const std::string& command, const std::string& name, const std::string& kept, const std::vector<int32_t>& after,
                           double seconds, int turns) {
    const std::vector<int32_t> before = ids_in(kept);
    for (int turn = 0; turn < turns; ++turn) {
      fs::copy_file(path(kept), path(name), fs::copy_options::overwrite_existing);
      ended += killed_after(words_of(command), static_cast<int64_t>(1000 * seconds * (.2 + random.uniform())));
      ++kills;
      const std::vector<int32_t> now = ids_in(name);
      ASSERT_TRUE(now == before || now == after) << command << ": " << now.size() << " tokens";
      MemoryFile::open(path(name), false).verify();
    }
  };

  // Reading: killed ones go on until the text is there, and it is the same text.
  const double read_seconds = seconds_of("read " + model() + " " + path("long.txt") + " -o " + path("whole.memory"));
  const std::vector<int32_t> whole = ids_in("whole.memory");
  const std::string read = "read " + model() + " " + path("long.txt") + " -o " + path("k.memory");
  for (int turn = 0; turn < 25; ++turn) {
    if (killed_after(words_of(read), static_cast<int64_t>(1000 * read_seconds * (.2 + random.uniform())))) ++ended;
    ++kills;
    if (fs::exists(path("k.memory.part"))) MemoryFile::open(path("k.memory.part"), false).verify();
    if (fs::exists(path("k.memory"))) {
      ASSERT_EQ(ids_in("k.memory"), whole);
      fs::remove(path("k.memory"));
    }
  }
  expect_success(read);
  EXPECT_EQ(ids_in("k.memory"), whole);

  // Appending, editing, joining (which saves a new file).
  const std::string append = "read " + model() + " " + path("more.txt") + " --append -o " + path("w.memory");
  fs::copy_file(path("whole.memory"), path("w.memory"));
  const double append_seconds = seconds_of(append);
  const std::vector<int32_t> appended = ids_in("w.memory");
  torture(append, "w.memory", "whole.memory", appended, append_seconds, 25);
  expect_success(append + (ids_in("w.memory") == appended ? " --help" : ""));  // a reading that was cut off goes on
  EXPECT_EQ(ids_in("w.memory"), appended);

  const std::string edit = "edit " + model() + " " + path("e.memory") + " --at 8000 --delete 16000";
  fs::copy_file(path("whole.memory"), path("e.memory"));
  const double edit_seconds = seconds_of(edit);
  torture(edit, "e.memory", "whole.memory", ids_in("e.memory"), edit_seconds, 25);

  const std::string join = "join " + model() + " " + path("whole.memory") + " " + path("k.memory") + " --force -o " + path("j.memory");
  fs::copy_file(path("whole.memory"), path("j.memory"));
  const double join_seconds = seconds_of(join);
  torture(join, "j.memory", "whole.memory", ids_in("j.memory"), join_seconds, 25);
  EXPECT_GE(kills, 100);
  EXPECT_GE(kills - ended, 30) << "too few were killed on the way";
  std::fprintf(stderr, "%lld kills, %lld of them after the program's own end\n", static_cast<long long>(kills),
               static_cast<long long>(ended));
}

}  // namespace
}  // namespace cairn
