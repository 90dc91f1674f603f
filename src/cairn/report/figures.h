// The pictures of a report, as charts and drawings that know nothing of the page around them.
#pragma once

#include <string>
#include <vector>

#include "cairn/report/chart.h"

namespace cairn::report {

// Accuracy over length. One evaluation: one line a task. Several: one chart a task, one colour a model.
std::vector<Chart> accuracy_overview(const std::vector<Evaluation>& evaluations);
// One task with everything known about it: teacher-forced with its interval, generated, floor, chance.
Chart accuracy_of_task(const std::vector<Evaluation>& evaluations, const std::string& task);
// Recall of the source chunk over length, a line per task and retrieval; empty() when nothing was measured.
Chart recall_over_length(const Evaluation& evaluation);
Chart reading_speed(const std::vector<Evaluation>& evaluations);
Chart decoding_time(const std::vector<Evaluation>& evaluations);  // milliseconds a generated token
Chart memory_use(const std::vector<Evaluation>& evaluations);     // bytes of the state; the GPU's peak dashed

// Loss behind contexts of different lengths, the paired difference with its error bars, loss by position. Charts without data are left out.
std::vector<Chart> language_charts(const std::vector<Perplexity>& perplexities);

// Depth x length of one task: ten rows of depth and one over all depths.
Svg draw_heatmap(const Evaluation& evaluation, const std::string& task, const Size& size, const Theme& theme, const std::string& id);
// Why samples failed: one bar a length, split by class, with its legend.
Svg draw_failures(const Evaluation& evaluation, const std::string& task, const Size& size, const Theme& theme, const std::string& id);
bool has_failures(const Evaluation& evaluation, const std::string& task);
const char* failure_words(int failure);  // "chunk not found", ...
// The colour scale: 0 to 100 %.
Svg draw_heat_legend(const Theme& theme, const std::string& id);

// The axis of text lengths that fits all cells.
Axis length_axis(const std::vector<Evaluation>& evaluations);

// Training: losses, skill, recall, schedules, speed of one run. Charts without data are left out.
std::vector<Chart> training_charts(const Run& run);
// Several runs side by side: one colour a run.
std::vector<Chart> comparison_charts(const std::vector<Run>& runs);
Chart training_speed(const std::vector<Run>& runs);

// All tasks in order of first appearance.
std::vector<std::string> all_tasks(const std::vector<Evaluation>& evaluations);

// Standalone SVG files with a white background.
std::string accuracy_picture(const std::vector<Evaluation>& evaluations);
std::string heatmap_picture(const std::vector<Evaluation>& evaluations);

}  // namespace cairn::report
