#include "cairn/cli/table.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace cairn {
namespace {

std::string printable(std::string text) {
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  return text;
}

}  // namespace

void Table::row(std::string name, std::string value) { rows_.emplace_back(std::move(name), std::move(value)); }

void Table::print() const {
  size_t width = 0;
  for (const auto& [name, value] : rows_) width = std::max(width, name.size());
  for (const auto& [name, value] : rows_) fmt::print("{:<{}}  {}\n", printable(name), width, printable(value));
}

}  // namespace cairn
