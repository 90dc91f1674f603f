#include "cairn/report/csv_table.h"

#include <algorithm>
#include <exception>

#include "cairn/core/error.h"
#include "cairn/report/data.h"

namespace cairn::report {
namespace {

std::vector<std::string> split(std::string_view text, char by) {
  std::vector<std::string> parts(1);
  for (const char c : text) {
    if (c == by) {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

}  // namespace

std::vector<CsvRow> read_csv(std::string_view text, const std::string& source, const std::string& marker) {
  std::vector<CsvRow> rows;
  std::vector<std::string> head;
  for (const std::string& line : split(text, '\n')) {
    if (line.empty() || line[0] == '#') continue;
    const std::vector<std::string> fields = split(line, ',');
    if (std::find(fields.begin(), fields.end(), marker) != fields.end()) {
      head = fields;
      continue;
    }
    if (head.empty() || fields.size() != head.size()) throw UserError("{}: this line fits no header: {}", source, line);
    CsvRow& row = rows.emplace_back();
    for (size_t i = 0; i < head.size(); ++i) row[head[i]] = fields[i];
  }
  if (rows.empty()) throw UserError("{}: no measurements", source);
  return rows;
}

double csv_number(const CsvRow& row, const std::string& column) {
  const auto found = row.find(column);
  try {
    return found == row.end() || found->second.empty() ? kMissing : std::stod(found->second);
  } catch (const std::exception&) {
    return kMissing;
  }
}

}  // namespace cairn::report
