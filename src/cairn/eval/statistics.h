// Wilson's interval of a share (E. B. Wilson, 1927), 95 %; means with their standard errors.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

namespace cairn {

// A running mean and its spread (B. P. Welford, 1962).
struct Mean {
  int64_t n = 0;
  double mean = 0, deviations = 0;  // sum of squared deviations from the mean
  void add(double value) {
    ++n;
    const double before = value - mean;
    mean += before / static_cast<double>(n);
    deviations += before * (value - mean);
  }
  // Of the mean of n independent values; NaN for fewer than two.
  double standard_error() const {
    if (n < 2) return std::numeric_limits<double>::quiet_NaN();
    return std::sqrt(deviations / static_cast<double>(n - 1) / static_cast<double>(n));
  }
};

struct Interval {
  double low = 0, high = 1;
};

inline Interval wilson_interval(int64_t correct, int64_t samples) {
  if (samples == 0) return {};
  constexpr double z = 1.959963984540054;
  const double n = static_cast<double>(samples), p = static_cast<double>(correct) / n;
  const double middle = (p + z * z / (2 * n)) / (1 + z * z / n);
  const double half = z / (1 + z * z / n) * std::sqrt(p * (1 - p) / n + z * z / (4 * n * n));
  // Exactly 0 and 1 at the ends, where rounding would leave a trace.
  return {correct == 0 ? 0 : std::max(0.0, middle - half), correct == samples ? 1 : std::min(1.0, middle + half)};
}

}  // namespace cairn
