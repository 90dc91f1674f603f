// From text to report on tiny data, through the program only: every file that one command writes is read by the next.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cairn/core/json.h"
#include "cairn/core/random.h"
#include "cairn/text/tokenizer.h"
#include "cli/run_program.h"

namespace cairn {
namespace {

using ::testing::HasSubstr;

Said expect_success(const std::string& arguments) {
  Said said = run_program(arguments);
  EXPECT_EQ(said.code, 0) << "cairn " << arguments << "\n" << said.err << said.out;
  return said;
}

TEST(Journey, TextToShard) {
  TempFolder folder;
  std::string text;
  for (int i = 0; i < 4000; ++i)
    text += fmt::format("Line {} of a small book: caf\u00e9, \u4e2d\u6587, and {} more words.\n", i, i * i % 977);
  write_file(folder / "book.txt", text);
  const std::string book = (folder / "book.txt").string(), model = (folder / "t.model").string(), shard = (folder / "book.shard").string();
  expect_success("tokenizer train " + book + " --vocab 330 -o " + model);
  EXPECT_THAT(expect_success("info " + model).out, HasSubstr("sentencepiece, 330 ids"));
  expect_success("shard " + book + " --tokenizer " + model + " -o " + shard);
  EXPECT_THAT(expect_success("info " + shard + " --verify").out, HasSubstr("agrees"));
  // Encoding and decoding give the text back, byte by byte.
  const std::string ids = expect_success("tokenizer encode --tokenizer " + model + " " + book).out;
  write_file(folder / "ids.txt", ids);
  EXPECT_TRUE(expect_success("tokenizer decode --tokenizer " + model + " " + (folder / "ids.txt").string()).out == text);
}

TEST(Journey, TrainResumeEvalReport) {
  TempFolder folder;
  const std::string config = (fs::path(CAIRN_SOURCE_DIR) / "configs/demo.toml").string(), run = (folder / "run").string();
  const std::string common =
      "train " + config + " --run " + run +
      " --set train.tokens=24K --set train.batch_tokens=1K --set train.save_every=8 --set train.log_every=4 --threads 1";
  expect_success("train " + config + " --dry-run");
  expect_success(common + " --stop-after 10");
  EXPECT_THAT(expect_success("info " + run).out, HasSubstr("step-"));
  // A second start must say what it wants.
  const Said again = run_program(common);
  EXPECT_EQ(again.code, 2);
  EXPECT_THAT(again.err, HasSubstr("--resume"));
  expect_success(common + " --resume");
  const Said info = expect_success("info " + run);
  EXPECT_THAT(info.out, HasSubstr("24 steps"));
  EXPECT_THAT(info.out, HasSubstr("upper half"));

  const std::string json = (folder / "eval.json").string(), html = (folder / "report.html").string();
  expect_success("eval " + run + "/model --lengths 128,1K --samples 4 --seed 1 --threads 1 --diagnose --json " + json);
  EXPECT_TRUE(parse_json(read_file(json), "eval.json").is_object());
  const std::string losses = (folder / "loss.json").string(), text = (folder / "words.txt").string();
  const std::shared_ptr<const Tokenizer> words = load_tokenizer(run + "/model/tokenizer.model");
  Random random(3);
  std::vector<int32_t> ids;
  for (int i = 0; i < 900; ++i) ids.push_back(static_cast<int32_t>(1 + random.below(words->vocab_size() - 1)));
  write_file(text, words->decode(ids));
  EXPECT_THAT(expect_success("perplexity " + run + "/model --text " + text +
                             " --lengths 64,512 --near 64 --targets 32 --windows 4 --threads 1 --json " + losses)
                  .out,
              HasSubstr("difference to 64"));
  const Said refused = run_program("perplexity " + run + "/model --text " + text + " --lengths 4K --threads 1");
  EXPECT_EQ(refused.code, 2);
  EXPECT_THAT(refused.err, HasSubstr("900 tokens"));
  expect_success("report " + run + " " + json + " " + losses + " -o " + html);
  EXPECT_THAT(read_file(html), HasSubstr("</html>"));
  EXPECT_THAT(read_file(html), HasSubstr("Language modelling"));
  EXPECT_THAT(read_file(html), HasSubstr("Retrieval in detail"));

  // A checkpoint whose weights were cut off is refused, in one line.
  const fs::path weights = fs::path(run) / "model/model.safetensors";
  fs::resize_file(weights, fs::file_size(weights) / 2);
  for (const std::string& command : {"info " + run, "eval " + run + "/model --lengths 128 --samples 1", common + " --resume"}) {
    const Said broken = run_program(command);
    EXPECT_EQ(broken.code, 2) << command << broken.err;
    EXPECT_THAT(broken.err, HasSubstr("model.safetensors")) << command;
  }
}

}  // namespace
}  // namespace cairn
