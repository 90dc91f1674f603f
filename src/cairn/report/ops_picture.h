// The operators' benchmark drawn: times over lengths, shares of the machine's limits over lengths and widths, kernels beside plain paths.
#pragma once

#include <string>
#include <string_view>

namespace cairn::report {

// An SVG file that stands alone, from the CSV of `cairn bench ops --device cuda --csv`. Charts without a point are left out. UserError
// naming `source` for what is no such table.
std::string draw_ops_picture(std::string_view csv, const std::string& source);

}  // namespace cairn::report
