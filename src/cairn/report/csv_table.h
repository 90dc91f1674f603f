// Measurements as the benchmarks print them: lines of values between commas under a line of names; # begins a remark.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace cairn::report {

using CsvRow = std::map<std::string, std::string>;  // by the names of the header line

// Rows of all tables of a text; a line that holds a value `marker` is the header of a new one. UserError naming `source` for a line that
// fits no header, and if there is no row.
std::vector<CsvRow> read_csv(std::string_view text, const std::string& source, const std::string& marker);

// The number of a column; kMissing (data.h) where it is absent, empty or no number.
double csv_number(const CsvRow& row, const std::string& column);

}  // namespace cairn::report
