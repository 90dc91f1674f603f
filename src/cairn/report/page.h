// The HTML page around the figures.
#pragma once

#include <string>
#include <string_view>

#include "cairn/report/data.h"

namespace cairn::report {

std::string page(const ReportData& data);

std::string_view page_style();   // CSS
std::string_view page_script();  // tooltips; the page is complete without it

// Parts of the page, each a run of HTML elements (page_tables.cpp).
std::string cells_table(const Evaluation& evaluation);
std::string diagnosis_table(const Evaluation& evaluation);  // of `cairn eval --diagnose`; empty if no cell has one
std::string perplexity_table(const Perplexity& perplexity);
std::string times_table(const Evaluation& evaluation);  // where the seconds of each cell went; empty if no file says it
std::string pairs_table(const Pairs& pairs, const std::string& caption);
std::string events_table(const Run& run);

}  // namespace cairn::report
