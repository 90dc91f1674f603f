// Reads one eval JSON file; every number is checked against the others, since a report must never show what cannot be.
#include <algorithm>
#include <cmath>

#include "cairn/core/error.h"
#include "cairn/report/fields.h"

namespace cairn::report {
namespace {

constexpr int64_t kMaxCount = int64_t{1} << 50;
constexpr size_t kMaxCells = 20000;

// The share of a score as the file states it must be the one that its counts give; a file that disagrees with itself is not shown.
Score read_score(const Fields& cell, int64_t samples, const std::string& prefix) {
  Score score;
  score.samples = samples;
  score.correct = cell.integer((prefix + "correct").c_str(), 0, samples);
  score.interval = wilson(score.correct, samples);
  const std::string accuracy = prefix + "accuracy", low = prefix + "wilson_low", high = prefix + "wilson_high";
  const double stated = cell.number_in(accuracy.c_str(), 0, 1);
  if (samples > 0) {
    score.accuracy = static_cast<double>(score.correct) / static_cast<double>(samples);
    if (!std::isnan(stated) && std::abs(stated - score.accuracy) > 1e-3) {
      throw UserError("{}: \"{}\" is {}, but {} of {} right is {:.4f}", cell.where(), accuracy, stated, score.correct, samples,
                      score.accuracy);
    }
    const double stated_low = cell.number_in(low.c_str(), 0, 1), stated_high = cell.number_in(high.c_str(), 0, 1);
    if (!std::isnan(stated_low) && !std::isnan(stated_high)) {
      if (stated_low > score.accuracy + 1e-3 || stated_high < score.accuracy - 1e-3) {
        throw UserError("{}: the interval {}..{} does not hold the accuracy {:.4f}", cell.where(), stated_low, stated_high, score.accuracy);
      }
      score.interval = {stated_low, stated_high};
    }
  }
  return score;
}

std::vector<DepthBin> read_depths(const Fields& cell, int64_t samples) {
  std::vector<DepthBin> bins;
  if (!cell.has("depths")) return bins;
  const Json& list = cell.at("depths");
  if (!list.is_array() || (!list.empty() && list.size() != kDepthBins)) {
    throw UserError("{}: \"depths\" must be a list of {} bins", cell.where(), kDepthBins);
  }
  int64_t sum = 0;
  for (const Json& item : list) {
    const Fields bin(item, fmt::format("{}, depth bin {}", cell.where(), bins.size() + 1));
    DepthBin b{bin.number_in("low", 0, 1), bin.number_in("high", 0, 1), bin.integer("samples", 0, samples), 0};
    if (!(b.low < b.high)) throw UserError("{}: \"low\" must be below \"high\"", bin.where());
    b.correct = bin.integer("correct", 0, b.samples);
    sum += b.samples;
    bins.push_back(b);
  }
  if (sum > samples) throw UserError("{}: the depth bins hold {} samples, the cell only {}", cell.where(), sum, samples);
  return bins;
}

void read_failures(const Fields& cell, Cell* out) {
  static constexpr const char* kNames[kFailureClasses] = {"not_found", "not_used", "misread", "no_source"};
  if (!cell.has("failures")) return;
  const Fields fields(cell.at("failures"), cell.where() + ": \"failures\"");
  std::array<int64_t, kFailureClasses> counts{};
  int64_t sum = 0;
  for (size_t f = 0; f < kFailureClasses; ++f) sum += counts[f] = fields.integer(kNames[f], 0, out->forced.samples);
  if (sum != out->forced.samples - out->forced.correct) {
    throw UserError("{}: the failures are {} in all, but {} of {} samples are wrong", cell.where(), sum,
                    out->forced.samples - out->forced.correct, out->forced.samples);
  }
  out->failures = counts;
}

MeanValue read_mean(const Fields& parent, const char* name) {
  if (!parent.has(name)) return {};
  const Fields fields(parent.at(name), fmt::format("{}: \"{}\"", parent.where(), name));
  MeanValue value{fields.number_in("mean", -1e9, 1e9), fields.number_in("standard_error", 0, 1e9), fields.integer("count", 0, kMaxCount)};
  if (std::isnan(value.mean) != (value.count == 0)) {
    throw UserError("{}: {} values {} a mean", fields.where(), value.count, value.count == 0 ? "with" : "without");
  }
  return value;
}

void read_diagnosis(const Fields& cell, Cell* out) {
  if (!cell.has("diagnosis")) return;
  const Fields fields(cell.at("diagnosis"), cell.where() + ": \"diagnosis\"");
  Diagnosis diagnosis;
  const Json& list = fields.at("retrievals");
  if (!list.is_array() || list.size() > 256) throw UserError("{}: \"retrievals\" must be a list", fields.where());
  for (const Json& item : list) {
    const Fields one(item, fmt::format("{}, retrieval {}", fields.where(), diagnosis.retrievals.size() + 1));
    RetrievalDetail d;
    d.rows = one.integer("rows", 0, kMaxCount);
    d.rank_median = one.number_in("rank_median", 1, 1e15);
    d.rank_90 = one.number_in("rank_90", 1, 1e15);
    d.recall_at_1 = one.number_in("recall_at_1", 0, 1);
    d.kl = read_mean(one, "kl");
    d.spearman = read_mean(one, "spearman");
    diagnosis.retrievals.push_back(d);
  }
  diagnosis.source_drop = read_mean(fields, "source_drop");
  diagnosis.other_drop = read_mean(fields, "other_drop");
  out->diagnosis = std::move(diagnosis);
}

Cell read_cell(const Json& json, const std::string& where) {
  const Fields fields(json, where);
  Cell cell;
  cell.task = fields.text("task");
  if (cell.task.empty()) throw UserError("{}: the field \"task\" is missing", where);
  cell.length = fields.integer("length", 1, kMaxCount);
  const Fields named(json, fmt::format("{} ({} at {})", where, cell.task, cell.length));
  const int64_t samples = named.integer("samples", 0, kMaxCount);
  cell.forced = read_score(named, samples, "");
  if (named.has("generated_correct")) cell.generated = read_score(named, samples, "generated_");
  if (named.has("floor_correct")) cell.floor = read_score(named, named.integer("floor_samples", 0, kMaxCount), "floor_");
  if (cell.floor && cell.floor->samples == 0) cell.floor.reset();  // not measured
  cell.token_accuracy = named.number_in("token_accuracy", 0, 1);
  cell.chance = named.number_in("chance", 0, 1);
  cell.seconds = named.number_in("seconds", 0, 1e12);
  cell.tokens_per_second = named.number_in("tokens_per_second", 0, 1e15);
  cell.seconds_reading = named.number_in("seconds_reading", 0, 1e12);
  cell.seconds_edits = named.number_in("seconds_edits", 0, 1e12);
  cell.seconds_asking = named.number_in("seconds_asking", 0, 1e12);
  cell.seconds_generating = named.number_in("seconds_generating", 0, 1e12);
  cell.decode_milliseconds = named.number_in("decode_milliseconds", 0, 1e12);
  cell.state_bytes = named.number_in("state_bytes", 0, 1e18);
  cell.device_peak_bytes = named.number_in("device_peak_bytes", 0, 1e18);
  cell.device_current_bytes = named.number_in("device_current_bytes", 0, 1e18);
  cell.shared_window = named.text("shared_window") == "true";
  if (named.has("recall")) {
    const Json& recall = named.at("recall");
    if (!recall.is_array() || recall.size() > 256) throw UserError("{}: \"recall\" must be a list of numbers", named.where());
    for (const Json& value : recall) {
      if (value.is_null()) {
        cell.recall.push_back(kMissing);
        continue;
      }
      const double share = value.is_number() ? value.get<double>() : -1;
      if (!(share >= 0 && share <= 1)) throw UserError("{}: \"recall\" must hold numbers between 0 and 1", named.where());
      cell.recall.push_back(share);
    }
  }
  cell.depths = read_depths(named, samples);
  read_failures(named, &cell);
  read_diagnosis(named, &cell);
  return cell;
}

}  // namespace

Evaluation read_evaluation(const fs::path& path) {
  const std::string file = path.string();
  const std::string text = read_file(path, int64_t{256} << 20);
  if (text.empty()) throw UserError("{}: the file is empty; an evaluation is written by `cairn eval ... --json FILE`", file);
  const Json json = parse_json(text, file);
  const Fields fields(json, file);
  if (const std::string kind = fields.text("kind"); kind != "eval") {
    throw UserError("{}: \"kind\" is \"{}\", not \"eval\"; give the files that `cairn eval ... --json FILE` writes", file, kind);
  }
  Evaluation e;
  e.sources = {file};
  e.version = fields.text("cairn");
  e.model = fields.text("model");
  e.fingerprint = fields.text("fingerprint");
  e.haystack = fields.text("haystack");
  e.seed = fields.text("seed");
  e.created = {fields.text("created")};
  e.commands = {fields.text("command")};
  if (fields.has("training_length")) e.training_length = fields.integer("training_length", 1, kMaxCount);
  if (fields.has("environment")) e.environment = flatten(Fields(fields.at("environment"), file + ": \"environment\"").object());
  if (fields.has("config")) e.config = flatten(Fields(fields.at("config"), file + ": \"config\"").object());
  const Json& cells = fields.at("cells");
  if (!cells.is_array()) throw UserError("{}: \"cells\" must be a list", file);
  if (cells.size() > kMaxCells) throw UserError("{}: {} cells; a report holds at most {}", file, cells.size(), kMaxCells);
  for (const Json& item : cells) {
    Cell cell = read_cell(item, fmt::format("{}: cell {}", file, e.cells.size() + 1));
    if (e.find(cell.task, cell.length)) throw UserError("{}: {} at length {} is there twice", file, cell.task, cell.length);
    e.cells.push_back(std::move(cell));
  }
  return e;
}

}  // namespace cairn::report
