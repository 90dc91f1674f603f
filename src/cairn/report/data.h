// What a report shows: evaluations (cells of task x length) and training runs, read from files that are treated as hostile.
#pragma once

#include <fmt/format.h>

#include <array>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cairn/core/files.h"

namespace cairn::report {

inline constexpr double kMissing = std::numeric_limits<double>::quiet_NaN();  // a number that the file does not give
inline constexpr int kDepthBins = 10;
inline constexpr size_t kFailureClasses = 4;
inline constexpr double kGood = 0.95;  // the accuracy from which a length counts as answered

using Pairs = std::vector<std::pair<std::string, std::string>>;  // (dotted name, value as text), in the order of the file

// 95 % Wilson interval of a share; (0, 1) without samples.
struct Interval {
  double low = 0, high = 1;
};
Interval wilson(int64_t correct, int64_t samples);

// A mean of `count` values; kMissing without values, or where the file gives none.
struct MeanValue {
  double mean = kMissing, standard_error = kMissing;
  int64_t count = 0;
};

// What `cairn eval --diagnose` measured (docs/evaluation.md).
struct RetrievalDetail {
  int64_t rows = 0;
  double rank_median = kMissing, rank_90 = kMissing, recall_at_1 = kMissing;
  MeanValue kl, spearman;  // nats; rank correlation
};
struct Diagnosis {
  std::vector<RetrievalDetail> retrievals;
  MeanValue source_drop, other_drop;  // nats
};

// One way of answering the samples of a cell. `accuracy` is kMissing without samples.
struct Score {
  int64_t samples = 0, correct = 0;
  double accuracy = kMissing;
  Interval interval;
};

// Samples whose needle stood in [low, high) of the text (0 = start, 1 = end).
struct DepthBin {
  double low = 0, high = 0;
  int64_t samples = 0, correct = 0;
};

struct Cell {
  std::string task;
  int64_t length = 0;                     // tokens
  Score forced;                           // all answer tokens right under teacher forcing
  std::optional<Score> generated, floor;  // greedy generation; the same model with its memory switched off
  double token_accuracy = kMissing, chance = kMissing, seconds = kMissing, tokens_per_second = kMissing;
  // Parts of `seconds`; milliseconds of one greedy step; bytes of the state and, on a GPU, the most that was held.
  double seconds_reading = kMissing, seconds_edits = kMissing, seconds_asking = kMissing, seconds_generating = kMissing;
  double decode_milliseconds = kMissing, state_bytes = kMissing, device_peak_bytes = kMissing, device_current_bytes = kMissing;
  bool shared_window = false;    // all samples stand in one text, in which only the needles change
  std::vector<double> recall;    // per retrieval: share of answer tokens whose source chunk was among the chosen
  std::vector<DepthBin> depths;  // kDepthBins, or none
  // Wrong samples (teacher-forced): source chunk not found, found but not used, misread, no visible source.
  std::optional<std::array<int64_t, kFailureClasses>> failures;
  std::optional<Diagnosis> diagnosis;
};

// One model on one haystack: one file, or several files of the same model that do not overlap.
struct Evaluation {
  std::string label;  // short and unique within the report
  std::string model, fingerprint, haystack, version;
  std::vector<std::string> sources, created, commands;  // per file
  std::string seed;
  std::optional<int64_t> training_length;
  Pairs environment, config;
  std::vector<Cell> cells;  // by task in order of appearance, then by length

  std::vector<std::string> tasks() const;  // in order of appearance
  std::vector<int64_t> lengths() const;    // ascending
  const Cell* find(const std::string& task, int64_t length) const;
};

// Loss of some tokens behind `tokens_before` others. Natural logarithms; the differences are to the same tokens behind the near context.
struct LossPoint {
  int64_t tokens_before = 0, tokens = 0;
  double loss = kMissing, standard_error = kMissing, bits_per_byte = kMissing;
  double difference = kMissing, difference_error = kMissing, difference_error_windows = kMissing;  // errors over tokens and over windows
};

// One file of `cairn perplexity --json`.
struct Perplexity {
  std::string label;  // short and unique within the report
  std::string source, version, model, fingerprint, created, command, text;
  std::optional<int64_t> training_length;
  int64_t windows = 0, targets = 0, near = 0;
  double seconds = kMissing, tokens_per_second = kMissing;
  Pairs environment, config;
  std::vector<LossPoint> lengths, positions;  // ascending
};

// One line of metrics.jsonl with kind "step"; kMissing where the line has no number.
struct Step {
  int64_t step = 0;
  double tokens = 0, seconds = kMissing, loss = kMissing, cross_entropy = kMissing, route = kMissing, distillation = kMissing,
         lr = kMissing, alpha = kMissing, beta = kMissing, length = kMissing, top_k = kMissing, grad_norm = kMissing,
         tokens_per_second = kMissing;
  std::map<std::string, double> skill, loss_by_task;
  std::vector<double> recall, recall_top1;  // per retrieval
};

// phase, gate, spike, end, resume: something that happened at a point of the run.
struct Event {
  std::string kind, text;
  int64_t step = 0;
  double tokens = 0;
};

struct Run {
  std::string label, source;
  std::vector<Step> steps;                            // ascending; what a resumed run did again counts once
  std::vector<std::pair<double, double>> validation;  // (tokens, loss)
  std::vector<Event> events;
  Pairs environment, config;
  std::string config_toml;         // the file's text, if there is one
  std::vector<std::string> notes;  // what the reader found odd: a last line that was cut off, losses that are no number

  std::vector<std::string> tasks() const;  // of the skills, sorted
};

struct ReportData {
  std::vector<Evaluation> evaluations;
  std::vector<Run> runs;
  std::vector<Perplexity> perplexities;
};

// Run folders (metrics.jsonl, config.toml), metrics files (*.jsonl), eval and perplexity JSON files. UserError with file and line for what
// is malformed.
ReportData read_inputs(const std::vector<fs::path>& inputs);

Evaluation read_evaluation(const fs::path& path);
Perplexity read_perplexity(const fs::path& path);
bool is_perplexity(const fs::path& path);  // by its "kind"; false for what is no JSON
Run read_run(const fs::path& folder_or_metrics);

// Words: "single_needle" -> "single needle".
std::string pretty_task(const std::string& task);

}  // namespace cairn::report
