// The mix of training samples, parsed.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace cairn {

// Shares summing to 1, in the given order. UserError: an unknown task (with the nearest name), a malformed entry, a negative share, a task
// given twice, nothing but zeros.
std::vector<std::pair<std::string, double>> parse_mix(const std::vector<std::string>& entries);

}  // namespace cairn
