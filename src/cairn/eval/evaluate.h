// Tasks x lengths x samples: how often the model answers right, with the floors that give the number its meaning (docs/evaluation.md).
//
//   teacher-forced   the arg max is right at every token of every answer, the right tokens before it given
//   generated        greedy generation from each answer's prompt contains every reference string, case-insensitively
//   floor            teacher-forced score of the same model with its memory switched off, on the same samples
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cairn/eval/diagnose.h"
#include "cairn/eval/failures.h"
#include "cairn/infer/reader.h"
#include "cairn/tasks/task_set.h"

namespace cairn {

struct EvalPlan {
  std::vector<std::string> tasks;
  std::vector<int64_t> lengths;  // tokens, question included
  int64_t samples = 100;
  uint64_t seed = 1;
  std::shared_ptr<const TokenSource> haystack;  // null: the task's own (word_pairs)
  int64_t batch = 0;                            // rows read together; 0: what fits and pays
  bool floor = true;
  // Read a haystack window once for all samples and tasks of a length, overwrite the needles, ask, restore: on | off | auto (long cells).
  // All samples of such cells share one window; read one by one each has its own.
  std::string edits = "auto";
  bool diagnose = false;  // fill EvalCell::diagnosis; every sample's tail is asked several times more
};

struct DepthBin {
  int64_t samples = 0, correct = 0;
};

// Where the time of a cell went.
struct EvalTimes {
  double reading = 0, edits = 0;      // seconds: texts through the lower half; needles written over and taken back (shared windows)
  double asking = 0, generating = 0;  // seconds: tails teacher-forced; answers generated where teacher forcing failed
  double decode_seconds = 0;          // of `decode_steps` greedy steps, one text, one token each, at this length; not in the sums above
  int64_t decode_steps = 0;           // 0: not measured
};

struct EvalCell {
  static constexpr int64_t kBins = 10;
  std::string task;
  int64_t length = 0, samples = 0, correct = 0, generated_correct = 0;
  int64_t tokens = 0, tokens_correct = 0;  // of answers, teacher-forced
  int64_t floor_samples = 0, floor_correct = 0;
  double chance = 0;
  std::optional<Diagnosis> diagnosis;
  // Per retrieval: rows that predict an answer token with a visible source chunk, and those whose selection holds one.
  std::vector<int64_t> recall_rows, recall_hits;
  std::array<int64_t, kFailures> failures{};  // wrong samples, teacher-forced, by class (enum Failure); their sum is samples - correct
  std::array<DepthBin, kBins> depths;         // by the place of the asked needle, teacher-forced
  double seconds = 0;                         // of reading, edits, asking and generating; floors not counted
  EvalTimes times;
  int64_t state_bytes = 0;  // of the largest state that was asked (all rows read together)
  // By the allocator of a GPU: the most that was held during the cell (floors not counted), and what was held at its end.
  std::optional<int64_t> device_peak_bytes, device_current_bytes;
  int64_t tokens_read = 0;     // tokens that went through the lower half in that time
  bool shared_window = false;  // by edits of one window, which the first such cell of a length reads
};

// Raises UserError (unknown task, haystack too short, length too short) and ResourceError before any work.
void check_plan(const Reader& reader, const TaskSet& tasks, const EvalPlan& plan);

// Every cell in turn, shorter lengths first; `on_cell` hears the cells so far after each. Stops early, without the unfinished cell, when
// stop_requested(). The reader's memory switch is on afterwards.
std::vector<EvalCell> evaluate(Reader& reader, const TaskSet& tasks, const Tokenizer& tokenizer, const EvalPlan& plan,
                               const std::function<void(const std::vector<EvalCell>&)>& on_cell = {});

}  // namespace cairn
