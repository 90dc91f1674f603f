// What the numbers say in words, and the numbers as files for other programs.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cairn/report/data.h"

namespace cairn::report {

// How far one task is answered.
struct Reach {
  std::string task;
  const Cell* longest = nullptr;  // the longest cell with kGood or more; null: none
  const Cell* dip = nullptr;      // the worst shorter cell below kGood, if any
  const Cell* best = nullptr;     // the best cell; null: nothing measured
};
std::vector<Reach> reaches(const Evaluation& evaluation);

std::string verdict(const Evaluation& evaluation);
std::string verdict(const Run& run);
std::string verdict(const Perplexity& perplexity);
std::string verdict(const ReportData& data);

// "single needle, multi query and variable tracking".
std::string join_words(const std::vector<std::string>& words);
// 8192 -> "8,192".
std::string thousands(int64_t value);
// "8,192 times" / "12.5 times" of a length; empty if there is no training length.
std::string times_training(const Evaluation& evaluation, int64_t length);

std::string cells_csv(const ReportData& data);     // one row a cell
std::string training_csv(const ReportData& data);  // one row a step
std::string numbers_json(const ReportData& data);  // cells, runs with thinned curves, verdict; no NaN, UTF-8

}  // namespace cairn::report
