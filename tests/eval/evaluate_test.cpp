// Scores, floors and files of evaluations, on random models whose own answers are written into the samples.
#include "cairn/eval/evaluate.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <gtest/gtest.h>

#include <numeric>

#include "cairn/core/error.h"
#include "cairn/core/json.h"
#include "cairn/core/progress.h"
#include "cairn/core/random.h"
#include "cairn/eval/eval_json.h"
#include "cairn/eval/scoring.h"
#include "cairn/eval/statistics.h"
#include "cairn/infer/decoder.h"
#include "cairn/text/token_source.h"

namespace cairn {
namespace {

// Tensors here are too small for two threads: waking the second costs more than the work.
const bool kOneThread = (at::set_num_threads(1), true);

TEST(Statistics, WilsonInterval) {
  // Values of the closed formula, computed elsewhere.
  EXPECT_NEAR(wilson_interval(50, 50).low, 0.92865, 1e-5);
  EXPECT_EQ(wilson_interval(50, 50).high, 1);
  EXPECT_EQ(wilson_interval(0, 10).low, 0);
  EXPECT_NEAR(wilson_interval(0, 10).high, 0.27753, 1e-5);
  EXPECT_NEAR(wilson_interval(95, 100).low, 0.88825, 1e-5);
  EXPECT_NEAR(wilson_interval(95, 100).high, 0.97846, 1e-5);
  EXPECT_EQ(wilson_interval(0, 0).low, 0);
  EXPECT_EQ(wilson_interval(0, 0).high, 1);
}

TEST(Scoring, ContainsIgnoresCase) {
  EXPECT_TRUE(contains_case_insensitive("The answer is ABCde.", "abcDE"));
  EXPECT_FALSE(contains_case_insensitive("The answer is ABCd", "abcDE"));
  EXPECT_TRUE(contains_case_insensitive("x", ""));
}

ModelConfig small_config(int64_t vocab) {
  ModelConfig c;
  c.vocab = vocab, c.d_model = 32, c.heads = c.kv_heads = 4, c.head_dim = 8, c.mlp_width = 48;
  c.window = 5, c.lower_layers = 2, c.chunk = 8, c.retrieval_dim = 16, c.memory_heads = 4;
  c.upper = {"memory", "window"};
  c.top_k = 3;
  return c;
}

std::shared_ptr<const Model> small_model(const ModelConfig& config, uint64_t seed) {
  const at::NoGradGuard no_gradient;
  auto parameters = std::make_shared<Parameters>(config, at::kCPU);
  parameters->initialize(seed);
  parameters->flat().narrow(0, 0, parameters->decay_count()).mul_(9);
  return std::make_shared<Model>(config, parameters);
}

std::vector<int32_t> random_ids(Random& random, int64_t n, int64_t vocab) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < n; ++i) ids.push_back(static_cast<int32_t>(1 + random.below(vocab - 1)));
  return ids;
}

// A sample with two questions whose answers are what the model itself says.
EvalSample own_answers(const Reader& reader, const Tokenizer& tokenizer, Random& random, int64_t length) {
  const int64_t vocab = tokenizer.vocab_size();
  EvalSample sample;
  sample.task = "own";
  sample.length = length;
  sample.haystack = make_memory_source(random_ids(random, length, vocab), "random");
  const int64_t prompts[] = {2 + random.below(9), 1 + random.below(7)}, answers[] = {1 + random.below(4), 2 + random.below(5)};
  sample.tail.assign(prompts[0] + answers[0] + prompts[1] + answers[1], 0);
  const int64_t tail_begin = length - static_cast<int64_t>(sample.tail.size());
  sample.edits = {{3 + random.below(tail_begin / 2), random_ids(random, 6, vocab)}};
  sample.depth = static_cast<double>(sample.edits[0].position) / static_cast<double>(length);
  int64_t at = 0;
  for (int k = 0; k < 2; ++k) {
    for (int64_t i = 0; i < prompts[k]; ++i) sample.tail[at++] = random_ids(random, 1, vocab)[0];
    const auto state = reader.new_reader_state(1);
    const auto made = generate(reader, *state, sample_tokens({&sample, 1}, 0, tail_begin + at, at::kCPU), answers[k])[0];
    EvalAnswer answer;
    answer.begin = at;
    for (const int32_t id : made) {
      answer.source.push_back({sample.edits[0].position, -1});
      sample.tail[at++] = id;
    }
    answer.end = at;
    answer.reference = tokenizer.decode(made);
    sample.answers.push_back(answer);
  }
  return sample;
}

struct Fixture {
  std::shared_ptr<const Tokenizer> tokenizer = make_word_pairs_tokenizer();
  ModelConfig config = small_config(tokenizer->vocab_size());
  Reader reader{small_model(config, 5)};
  Random random{17};
};

TEST(Scoring, OwnAnswersAreRight) {
  Fixture f;
  std::vector<EvalSample> samples;
  for (int i = 0; i < 5; ++i) samples.push_back(own_answers(f.reader, *f.tokenizer, f.random, 150));
  size_t longest = 0;
  for (const EvalSample& s : samples) longest = std::max(longest, s.tail.size());
  const auto score = [&] {
    const auto state = f.reader.new_reader_state(5);
    f.reader.read(*state, sample_tokens(samples, 0, 150 - static_cast<int64_t>(longest), at::kCPU));
    return score_samples(f.reader, *state, samples, *f.tokenizer, true);
  };
  for (const SampleScore& s : score()) {
    EXPECT_TRUE(s.correct && s.generated);
    EXPECT_EQ(s.tokens, s.tokens_correct);
    ASSERT_EQ(s.recall_rows.size(), 1u);
    EXPECT_GT(s.recall_rows[0], 0);
  }
  // One wrong token: teacher forcing fails there; generation is run and still says what the reference says.
  EvalSample& broken = samples[2];
  broken.tail[broken.answers[1].begin] = broken.tail[broken.answers[1].begin] == 1 ? 2 : 1;
  const auto again = score();
  EXPECT_FALSE(again[2].correct);
  EXPECT_TRUE(again[2].generated);
  ASSERT_TRUE(again[2].failure.has_value());
  EXPECT_NE(*again[2].failure, Failure::kNoSource);
  EXPECT_FALSE(again[1].failure.has_value());
  EXPECT_LT(again[2].tokens_correct, again[2].tokens);
  EXPECT_TRUE(again[1].correct && again[3].correct);
  // A reference that the model does not say: generated is wrong, also where teacher forcing is right.
  samples[0].answers[0].reference = "no such word";
  samples[2].answers[1].reference = "no such word";
  const auto third = score();
  EXPECT_TRUE(third[0].correct);
  EXPECT_FALSE(third[0].generated);
  EXPECT_FALSE(third[2].generated);
}

TEST(Scoring, RecallCountsVisibleSourcesOnly) {
  Fixture f;
  ReaderOptions options;
  options.top_k = 1000;
  const Reader all(small_model(f.config, 5), options);
  EvalSample sample = own_answers(all, *f.tokenizer, f.random, 100);
  const int64_t tail_begin = 100 - static_cast<int64_t>(sample.tail.size());
  const auto score = [&] {
    const auto state = all.new_reader_state(1);
    all.read(*state, sample_tokens({&sample, 1}, 0, tail_begin, at::kCPU));
    return score_samples(all, *state, {&sample, 1}, *f.tokenizer, false)[0];
  };
  // All chunks selected: every visible source is a hit.
  EXPECT_EQ(score().recall_rows[0], score().tokens);
  EXPECT_EQ(score().recall_hits[0], score().tokens);
  // All chunks selected, so that a wrong token is never one that was not found.
  const int32_t said = sample.tail[sample.answers[0].begin];
  sample.tail[sample.answers[0].begin] = said == 1 ? 2 : 1;
  EXPECT_TRUE(score().failure == Failure::kNotUsed || score().failure == Failure::kMisread);
  sample.tail[sample.answers[0].begin] = said;
  // A source in the chunk of the predicting row itself is not visible, one that is nowhere does not count.
  for (EvalAnswer& answer : sample.answers) {
    for (size_t j = 0; j < answer.source.size(); ++j) answer.source[j] = {tail_begin + answer.begin + static_cast<int64_t>(j) - 1, -1};
  }
  EXPECT_EQ(score().recall_rows[0], 0);
  sample.tail[sample.answers[0].begin] = said == 1 ? 2 : 1;
  EXPECT_EQ(score().failure, Failure::kNoSource);
  sample.tail[sample.answers[0].begin] = said;
  // Nothing but one chunk selected: hits are what the selection says.
  for (EvalAnswer& answer : sample.answers) {
    for (auto& source : answer.source) source = {-1, 0};
  }
  EXPECT_EQ(score().recall_hits[0], score().tokens);
}

TEST(Evaluate, CountsAddUpAndBatchesDoNotMatter) {
  Fixture f;
  TaskOptions options;
  options.mix = {"word_pairs:1"};
  const TaskSet tasks(f.tokenizer, nullptr, options);
  EvalPlan plan;
  plan.tasks = {"word_pairs"};
  plan.lengths = {300, 128};
  plan.samples = 7;
  std::vector<std::vector<EvalCell>> results;
  for (const int64_t batch : {1, 3, 7}) {
    plan.batch = batch;
    int heard = 0;
    results.push_back(evaluate(f.reader, tasks, *f.tokenizer, plan,
                               [&](const std::vector<EvalCell>& cells) { EXPECT_EQ(static_cast<int>(cells.size()), ++heard); }));
    EXPECT_EQ(heard, 2);
  }
  for (const auto& cells : results) {
    ASSERT_EQ(cells.size(), 2u);
    EXPECT_EQ(cells[0].length, 128);  // shorter first
    for (size_t i = 0; i < 2; ++i) {
      const EvalCell& cell = cells[i];
      EXPECT_EQ(cell.samples, 7);
      EXPECT_EQ(cell.floor_samples, 7);
      EXPECT_EQ(cell.tokens_read, 7 * cell.length);
      EXPECT_GT(cell.times.reading, 0);
      EXPECT_GT(cell.times.asking, 0);
      EXPECT_EQ(cell.times.edits, 0);
      EXPECT_DOUBLE_EQ(cell.seconds, cell.times.reading + cell.times.asking + cell.times.generating);
      EXPECT_GT(cell.times.decode_seconds, 0);
      EXPECT_EQ(cell.times.decode_steps, 8);
      EXPECT_FALSE(cell.device_peak_bytes || cell.device_current_bytes) << "no GPU took part";
      EXPECT_EQ(cell.correct, results[0][i].correct);
      EXPECT_EQ(cell.failures, results[0][i].failures);
      EXPECT_EQ(std::accumulate(cell.failures.begin(), cell.failures.end(), int64_t{0}), cell.samples - cell.correct);
      EXPECT_EQ(cell.tokens_correct, results[0][i].tokens_correct);
      EXPECT_EQ(cell.recall_hits, results[0][i].recall_hits);
      EXPECT_EQ(cell.recall_rows[0], results[0][i].recall_rows[0]);
      int64_t samples = 0;
      for (const DepthBin& bin : cell.depths) samples += bin.samples;
      EXPECT_EQ(samples, 7);
      EXPECT_NEAR(cell.chance, 1.0 / 128, 1e-9);
    }
  }
}

TEST(Evaluate, AnyNumberOfSamplesCanBeDrawn) {
  // Some key words have no held-out value; drawing samples must end all the same.
  Fixture f;
  TaskOptions options;
  options.mix = {"word_pairs:1"};
  const TaskSet tasks(f.tokenizer, nullptr, options);
  for (int64_t i = 0; i < 3000; ++i) EXPECT_EQ(tasks.eval_sample("word_pairs", 1, i, 128, nullptr).answers.size(), 1u);
}

TEST(Evaluate, EditsGiveWhatFreshReadsGive) {
  // A haystack whose windows are all alike, so that reading one by one and reading by edits see the same texts.
  class Alike final : public TokenSource {
   public:
    int64_t size() const override { return kUnlimited; }
    void read(int64_t, std::span<int32_t> out) const override { std::fill(out.begin(), out.end(), ' '); }
    std::string name() const override { return "alike"; }
  };
  const auto tokenizer = load_tokenizer("bytes");
  ModelConfig config = small_config(tokenizer->vocab_size());
  config.top_k = 100000;  // chunks that look alike tie
  Reader reader(small_model(config, 8));
  const TaskSet tasks(tokenizer, std::make_shared<Alike>(), TaskOptions{});
  EvalPlan plan;
  plan.tasks = {"single_needle", "multi_query", "variable_tracking"};
  plan.lengths = {1100};
  plan.samples = 4;
  plan.haystack = std::make_shared<Alike>();
  plan.edits = "off";
  const auto fresh = evaluate(reader, tasks, *tokenizer, plan);
  plan.edits = "on";
  const auto edited = evaluate(reader, tasks, *tokenizer, plan);
  ASSERT_EQ(fresh.size(), 3u);
  int64_t shortest = fresh[0].state_bytes;
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_FALSE(fresh[i].shared_window);
    EXPECT_TRUE(edited[i].shared_window);
    EXPECT_EQ(edited[i].tokens_correct, fresh[i].tokens_correct);
    EXPECT_EQ(edited[i].tokens, fresh[i].tokens);
    EXPECT_EQ(edited[i].recall_rows, fresh[i].recall_rows);
    EXPECT_EQ(edited[i].recall_hits, fresh[i].recall_hits);
    EXPECT_EQ(edited[i].floor_correct, fresh[i].floor_correct);
    EXPECT_LT(edited[i].tokens_read, fresh[i].tokens_read);
    EXPECT_GT(edited[i].times.edits, 0);
    EXPECT_EQ(edited[i].state_bytes, edited[0].state_bytes);  // one reading for all tasks
    shortest = std::min(shortest, fresh[i].state_bytes);
  }
  // Four states read together against one: caches, tail and pages are rows of the same sizes. The one ends where the longest tail begins.
  EXPECT_EQ(shortest, 4 * edited[0].state_bytes);
  // The first task's cell read the window: asked alone, the last task's must read it itself.
  plan.tasks = {"variable_tracking"};
  EXPECT_GT(evaluate(reader, tasks, *tokenizer, plan)[0].tokens_read, edited[2].tokens_read + 300);
}

TEST(Evaluate, RefusesBeforeWork) {
  Fixture f;
  const auto bytes = load_tokenizer("bytes");
  const auto text = make_memory_source(std::vector<int32_t>(3000, 'a'), "short");
  const TaskSet tasks(bytes, text, TaskOptions{});
  Reader reader(small_model(small_config(bytes->vocab_size()), 1));
  EvalPlan plan;
  plan.samples = 2;
  plan.lengths = {2000};
  plan.haystack = text;
  plan.tasks = {"single_needel"};
  try {
    check_plan(reader, tasks, plan);
    FAIL() << "an unknown task was taken";
  } catch (const UserError& error) {
    EXPECT_NE(std::string(error.what()).find("single_needle"), std::string::npos);
  }
  plan.tasks = {"single_needle"};
  check_plan(reader, tasks, plan);
  plan.lengths = {10000};
  EXPECT_THROW(check_plan(reader, tasks, plan), UserError);  // haystack too short
  plan.lengths = {20};
  EXPECT_THROW(check_plan(reader, tasks, plan), UserError);  // length too short
  plan.lengths = {int64_t{1} << 40};
  plan.haystack = make_prose_source(bytes, 1);
  try {
    check_plan(reader, tasks, plan);
    FAIL() << "a length that cannot fit was taken";
  } catch (const ResourceError& error) {
    EXPECT_NE(std::string(error.what()).find("free"), std::string::npos);
  }
  plan.lengths = {};
  EXPECT_THROW(check_plan(reader, tasks, plan), UserError);
}

TEST(EvalJson, HoldsTheSchema) {
  EvalCell cell;
  cell.task = "single_needle", cell.length = 4096, cell.samples = 4, cell.correct = 3, cell.generated_correct = 2, cell.tokens = 28,
  cell.tokens_correct = 27;
  cell.recall_rows = {28, 0}, cell.recall_hits = {14, 0}, cell.seconds = 2, cell.tokens_read = 4 * 4096;
  cell.depths[9] = {4, 3};
  cell.failures = {0, 1, 0, 0};
  cell.times = {1, .25, .5, .25, .016, 8};
  cell.state_bytes = 5'000'000;
  EvalHeader header;
  header.model = "models/x";
  header.command = "cairn eval models/x";
  header.training_length = 128;
  const auto json = parse_json(eval_json(header, small_config(100), {cell}), "test");
  EXPECT_EQ(json["kind"], "eval");
  EXPECT_EQ(json["training_length"], 128);
  EXPECT_EQ(json["config"]["window"], 5);
  for (const char* key : {"cpu", "cores", "threads", "torch", "capability", "device"})
    EXPECT_TRUE(json["environment"].contains(key)) << key;
  const auto& c = json["cells"][0];
  EXPECT_EQ(c["accuracy"], 0.75);
  EXPECT_EQ(c["generated_accuracy"], 0.5);
  EXPECT_NEAR(c["wilson_low"].get<double>(), 0.30064, 1e-4);
  EXPECT_EQ(c["recall"][0], 0.5);
  EXPECT_TRUE(c["recall"][1].is_null());
  EXPECT_EQ(c["tokens_per_second"], 8192);
  ASSERT_EQ(c["depths"].size(), 10u);
  EXPECT_EQ(c["depths"][9]["correct"], 3);
  EXPECT_EQ(c["floor_samples"], 0);
  EXPECT_EQ(c["seconds_edits"], .25);
  EXPECT_EQ(c["decode_milliseconds"], 2);
  EXPECT_EQ(c["state_bytes"], 5'000'000);
  EXPECT_TRUE(c["device_peak_bytes"].is_null());
  EXPECT_EQ(c["failures"]["not_used"], 1);
  EXPECT_EQ(c["failures"]["misread"], 0);
  EXPECT_NE(eval_table({cell}).find(" 1u "), std::string::npos);
  EXPECT_TRUE(c["diagnosis"].is_null());
  cell.diagnosis.emplace();
  cell.diagnosis->retrievals.resize(2);
  cell.diagnosis->retrievals[0].ranks = {1, 4, 1, 90};
  cell.diagnosis->source_drop.add(2);
  cell.diagnosis->source_drop.add(4);
  const auto diagnosed = parse_json(eval_json(header, small_config(100), {cell}), "test")["cells"][0]["diagnosis"];
  EXPECT_EQ(diagnosed["retrievals"][0]["rank_median"], 1);
  EXPECT_EQ(diagnosed["retrievals"][0]["rank_90"], 90);
  EXPECT_EQ(diagnosed["retrievals"][0]["recall_at_1"], .5);
  EXPECT_TRUE(diagnosed["retrievals"][0]["kl"]["mean"].is_null());
  EXPECT_TRUE(diagnosed["retrievals"][1]["rank_median"].is_null());
  EXPECT_EQ(diagnosed["source_drop"]["mean"], 3);
  EXPECT_EQ(diagnosed["source_drop"]["standard_error"], 1);
  EXPECT_EQ(diagnosed["other_drop"]["count"], 0);
  header.training_length.reset();
  EXPECT_TRUE(parse_json(eval_json(header, small_config(100), {}), "test")["training_length"].is_null());
}

}  // namespace
}  // namespace cairn
