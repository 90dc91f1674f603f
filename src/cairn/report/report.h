// A report: what was trained and how well it reads, in one HTML file that needs nothing else, with the numbers beside it.
#pragma once

#include <string>
#include <vector>

#include "cairn/core/files.h"

namespace cairn {

// Writes OUTPUT (must end in .html) and, beside it, the same name with .json and .csv (cells) and, when a run is among the inputs,
// .training.csv (steps); each file atomically, the HTML last. The same inputs give the same bytes. Inputs are run folders (metrics.jsonl,
// config.toml), metrics files (*.jsonl) and eval JSON files, in any mixture; several models are compared. UserError for malformed inputs
// (file, line) and for outputs that would overwrite an input.
void write_report(const std::vector<fs::path>& inputs, const fs::path& output);

// Pictures of their own, as SVG files with a white background: accuracy over length, and the heat maps depth x length. An empty path leaves
// one out. UserError if the inputs hold no evaluation.
void write_pictures(const std::vector<fs::path>& inputs, const fs::path& accuracy, const fs::path& heatmap);

// What was seen, in one sentence of plain words (a sentence per model if there are several), computed from the numbers.
std::string report_verdict(const std::vector<fs::path>& inputs);

}  // namespace cairn
