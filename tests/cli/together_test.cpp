// Commands that several processes run together, through the program: what two of them read and answer is what one does; what is the work of
// one is refused.
#include <ATen/ops/equal.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <thread>

#include "cairn/core/json.h"
#include "cairn/core/random.h"
#include "cairn/infer/memory_file.h"
#include "cli/run_program.h"
#include "dist/processes.h"

namespace cairn {
namespace {

using ::testing::HasSubstr;

class TogetherProgram : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TempFolder(quick_disk());
    const std::string config = (fs::path(CAIRN_SOURCE_DIR) / "configs/demo.toml").string();
    const Said said =
        run_program(fmt::format("train {} --run {} --set train.tokens=4K --set train.batch_tokens=1K --threads 1", config, path("run")));
    ASSERT_EQ(said.code, 0) << said.err;
    std::ifstream file(path("run/model/tokenizer.model"));
    std::vector<std::string> words;
    std::string word;
    std::getline(file, word);  // the header
    while (std::getline(file, word)) words.push_back(word);
    for (const auto& [name, count] : {std::pair<std::string, int>{"a.txt", 3000}, {"b.txt", 700}}) {
      Random random(stream_key({static_cast<uint64_t>(count)}));
      std::string text;
      for (int i = 0; i < count; ++i) text += (i == 0 ? "" : " ") + words[random.below(std::ssize(words))];
      write_file(path(name), text);
    }
  }
  static void TearDownTestSuite() { delete folder_; }

  static std::string path(const std::string& name) { return (*folder_ / name).string(); }
  static std::string model() { return path("run/model"); }

  // The same command in `size` processes at once.
  static std::vector<Said> run_together(const std::string& arguments, int size = 2) {
    return run_together(std::vector<std::string>(size, arguments));
  }
  // A command for each process.
  static std::vector<Said> run_together(const std::vector<std::string>& arguments) {
    const int size = static_cast<int>(arguments.size());
    const int port = testing::free_port();
    std::vector<Said> all(size);
    std::vector<std::thread> threads;
    for (int rank = 0; rank < size; ++rank) {
      threads.emplace_back([&, rank] {
        all[rank] = run_program(arguments[rank], fmt::format("WORLD_SIZE={} RANK={} LOCAL_RANK={} MASTER_ADDR=127.0.0.1 MASTER_PORT={} "
                                                             "CAIRN_DIST_TIMEOUT=60 OMP_NUM_THREADS=1",
                                                             size, rank, rank, port));
      });
    }
    for (std::thread& thread : threads) thread.join();
    return all;
  }
  // All end well, and process 0 alone says something.
  static std::string expect_success(const std::string& arguments, int size = 2) {
    const std::vector<Said> all = run_together(arguments, size);
    for (int rank = 0; rank < size; ++rank) {
      EXPECT_EQ(all[rank].code, 0) << "process " << rank << ": cairn " << arguments << "\n" << all[rank].err;
      if (rank > 0) {
        EXPECT_EQ(all[rank].out + all[rank].err, "") << "process " << rank;
      }
    }
    return all[0].out;
  }
  // All end with 2, and one line is said.
  static void expect_refusal(const std::string& arguments, const std::string& part) {
    const std::vector<Said> all = run_together(arguments);
    EXPECT_EQ(all[0].code, 2) << arguments;
    EXPECT_EQ(all[1].code, 2) << arguments;
    EXPECT_THAT(all[0].err, HasSubstr(part)) << arguments;
    EXPECT_EQ(lines_in(all[0].err + all[1].err), 1) << all[0].err << all[1].err;
    EXPECT_EQ(all[0].out + all[1].out, "");
  }
  static Said alone(const std::string& arguments) {
    Said said = run_program(arguments + " --threads 1");
    EXPECT_EQ(said.code, 0) << said.err;
    return said;
  }
  static TextMemory load(const std::string& name) {
    const MemoryFile file = MemoryFile::open(path(name), false);
    return file.load(*file.root().memory, false, at::kCPU);
  }
  static void expect_same_memory(const std::string& a, const std::string& b) {
    const TextMemory x = load(a), y = load(b);
    ASSERT_EQ(x.tokens.size(), y.tokens.size());
    std::vector<int32_t> ids(x.tokens.size()), others(ids.size());
    x.tokens.read(0, ids);
    y.tokens.read(0, others);
    EXPECT_EQ(ids, others);
    ASSERT_EQ(x.documents.size(), y.documents.size());
    for (size_t i = 0; i < x.documents.size(); ++i) EXPECT_EQ(x.documents[i].token, y.documents[i].token);
    ASSERT_EQ(x.state->memory.chunks(), y.state->memory.chunks());
    const ChunkEncoding p = x.state->memory.copy(0, x.state->memory.chunks()), q = y.state->memory.copy(0, y.state->memory.chunks());
    EXPECT_TRUE(at::equal(p.landmarks, q.landmarks) && at::equal(p.k, q.k) && at::equal(p.v, q.v));
    EXPECT_TRUE(at::equal(x.state->tail, y.state->tail));
    for (size_t i = 0; i < x.state->lower.size(); ++i) EXPECT_TRUE(at::equal(x.state->lower[i].k, y.state->lower[i].k));
  }
  // Answers with what every token read.
  static nlohmann::json questions_in(const std::string& name) {
    nlohmann::json questions = parse_json(read_file(path(name)), name)["questions"];
    for (auto& question : questions) {
      question.erase("seconds");
      for (auto& token : question["tokens"]) {
        token["probability"] = std::round(1e4 * token["probability"].get<double>());
        for (auto& read : token["reads"]) read["weight"] = std::round(1e3 * read["weight"].get<double>());
      }
    }
    return questions;
  }

  static inline TempFolder* folder_ = nullptr;
};

TEST_F(TogetherProgram, ReadAndAppendGiveTheMemoryOfOneProcess) {
  const std::string segment = " --segment 256";
  alone("read " + model() + " " + path("a.txt") + " -o " + path("one.memory") + segment);
  EXPECT_THAT(expect_success("read " + model() + " " + path("a.txt") + " -o " + path("two.memory") + segment),
              HasSubstr("3000 tokens in 1 documents"));
  expect_same_memory("two.memory", "one.memory");
  alone("read " + model() + " " + path("b.txt") + " -o " + path("one.memory") + " --append" + segment);
  expect_success("read " + model() + " " + path("b.txt") + " -o " + path("two.memory") + " --append" + segment);
  expect_same_memory("two.memory", "one.memory");
  expect_success("read " + model() + " " + path("a.txt") + " " + path("b.txt") + " -o " + path("three.memory") + segment, 3);
  alone("read " + model() + " " + path("a.txt") + " " + path("b.txt") + " -o " + path("both.memory") + segment);
  expect_same_memory("three.memory", "both.memory");
  // The texts are those of process 0.
  expect_refusal("read " + model() + " " + path("nothing.txt") + " -o " + path("x.memory"), "nothing.txt");
  expect_refusal("read " + model() + " " + path("a.txt") + " -o " + path("two.memory"), "exists");
}

// Ctrl-C reaches all processes at once. It is heard inside a part, which may take a slow machine minutes; the same command goes on. The
// text takes longer to read than the signals take to come, on any machine.
TEST_F(TogetherProgram, CtrlCStopsAReading) {
  std::string text;
  while (text.size() < (size_t{32} << 20)) text += "ask amber river then amber ask river ";
  text.pop_back();
  write_file(path("long.txt"), text);
  const std::string read = "read " + model() + " " + path("long.txt") + " -o " + path("long.memory") + " --segment 256";
  for (const bool again : {false, true}) {
    const int port = testing::free_port();
    std::vector<Said> all(2);
    std::vector<std::thread> threads;
    for (int rank = 0; rank < 2; ++rank) {
      threads.emplace_back([&, rank] {
        all[rank] =
            run_program(read, fmt::format("WORLD_SIZE=2 RANK={} LOCAL_RANK={} MASTER_ADDR=127.0.0.1 MASTER_PORT={} OMP_NUM_THREADS=1 "
                                          "timeout --preserve-status -k 8 -s INT 3",
                                          rank, rank, port));
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const Said& said : all) EXPECT_EQ(said.code, 130) << said.err;  // a kill by `timeout` 8 s later would be 137
    EXPECT_THAT(all[0].err, HasSubstr("the same command goes on"));
    EXPECT_EQ(all[0].err.find("going on at token") != std::string::npos, again) << all[0].err;
    EXPECT_EQ(all[1].err, "");
  }
}

// On several machines a path may lead to different models.
TEST_F(TogetherProgram, ReadingRefusesDifferentModels) {
  fs::copy(model(), path("other"), fs::copy_options::recursive);
  std::string weights = read_file(path("other/model.safetensors"));
  weights.back() ^= 1;
  write_file(path("other/model.safetensors"), weights);
  const std::string rest = " " + path("a.txt") + " -o " + path("x.memory");
  const std::vector<Said> all = run_together(std::vector<std::string>{"read " + model() + rest, "read " + path("other") + rest});
  EXPECT_EQ(all[0].code, 2);
  EXPECT_EQ(all[1].code, 2);
  EXPECT_THAT(all[0].err, HasSubstr("not the same model in all 2 processes"));
  EXPECT_EQ(lines_in(all[0].err + all[1].err), 1) << all[0].err << all[1].err;
}

TEST_F(TogetherProgram, AnswersAreThoseOfOneProcess) {
  alone("read " + model() + " " + path("a.txt") + " -o " + path("ask.memory"));
  const std::string questions = " -q 'ask amber' -q 'ask river then ask' -q 'amber' --max-tokens 6 --batch 2";
  const std::string said = alone("ask " + model() + " " + path("ask.memory") + questions + " --json " + path("one.json")).out;
  for (const auto& [size, more] : {std::pair<int, std::string>{2, ""}, {3, " --ram"}}) {
    EXPECT_EQ(expect_success("ask " + model() + " " + path("ask.memory") + questions + more + " --json " + path("two.json"), size), said);
    EXPECT_EQ(questions_in("two.json"), questions_in("one.json"));
  }
  // Longer than a chunk: what the answer itself completes is remembered by the last process. Drawn, not the most likely tokens.
  const std::string drawn = " -q 'ask amber' --max-tokens 150 --temperature 0.9 --seed 4";
  EXPECT_EQ(expect_success("ask " + model() + " " + path("ask.memory") + drawn),
            alone("ask " + model() + " " + path("ask.memory") + drawn).out);
  const std::string generate = "generate " + model() + " --memory " + path("ask.memory") + " --prompt 'ask amber' --max-tokens 40";
  EXPECT_EQ(expect_success(generate + " --logits " + path("l.safetensors")), alone(generate).out);
  EXPECT_TRUE(fs::exists(path("l.safetensors")));
}

TEST_F(TogetherProgram, QuestionsComeFromTheInputOfProcess0) {
  alone("read " + model() + " " + path("b.txt") + " -o " + path("input.memory"));
  write_file(path("lines"), "ask amber\n\nask river");
  const std::string ask = "ask " + model() + " " + path("input.memory") + " --max-tokens 4 ", input = " < " + path("lines");
  const std::string said = run_program(ask + input).out;
  EXPECT_EQ(expect_success(ask + input), said);
  // Nobody minds that a person thinks longer than a collective may take.
  const std::vector<Said> slow = [&] {
    const int port = testing::free_port();
    std::vector<Said> all(2);
    std::vector<std::thread> threads;
    for (int rank = 0; rank < 2; ++rank) {
      threads.emplace_back([&, rank] {
        const std::string environment =
            fmt::format("WORLD_SIZE=2 RANK={} LOCAL_RANK={} MASTER_ADDR=127.0.0.1 MASTER_PORT={} CAIRN_DIST_TIMEOUT=10 OMP_NUM_THREADS=1",
                        rank, rank, port);
        all[rank] = rank == 0 ? run_program(ask, fmt::format("{{ sleep 14; cat {}; }} | {}", path("lines"), environment))
                              : run_program(ask, environment);
      });
    }
    for (std::thread& thread : threads) thread.join();
    return all;
  }();
  EXPECT_EQ(slow[0].out, said) << slow[0].err;
  EXPECT_EQ(slow[1].code, 0) << slow[1].err;
}

TEST_F(TogetherProgram, WhatIsTheWorkOfOneProcessIsRefused) {
  alone("read " + model() + " " + path("b.txt") + " -o " + path("r.memory"));
  for (const std::string& arguments :
       {"edit " + model() + " " + path("r.memory") + " --at 1 --text amber",
        "join " + model() + " " + path("r.memory") + " " + path("r.memory") + " -o " + path("j.memory"),
        "perplexity " + model() + " --text " + path("a.txt") + " --lengths 128 --json " + path("p.json"), std::string("check"),
        std::string("bench ops"), "shard --tokenizer " + model() + "/tokenizer.model " + path("a.txt") + " -o " + path("s.shard")}) {
    expect_refusal(arguments, "is the work of one process");
  }
  EXPECT_FALSE(fs::exists(path("j.memory")) || fs::exists(path("p.json")) || fs::exists(path("s.shard")));
  expect_refusal("ask " + model() + " " + path("nothing.memory") + " -q amber", "nothing.memory");
  expect_refusal("ask " + model() + " " + path("r.memory") + " -q ''", "the question is empty");
  EXPECT_EQ(run_together("info " + path("r.memory"))[1].code, 0);
}

}  // namespace
}  // namespace cairn
