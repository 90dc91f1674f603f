#include "cairn/core/range_set.h"

#include <algorithm>
#include <iterator>

#include "cairn/core/error.h"

namespace cairn {

void RangeSet::insert(int64_t begin, int64_t end) {
  CAIRN_CHECK(0 <= begin && begin <= end, "range {} .. {}", begin, end);
  if (begin == end) return;
  auto at = end_of_.upper_bound(begin);
  if (at != end_of_.begin() && std::prev(at)->second >= begin) --at;
  // `at` is the first range that ends at `begin` or behind it: everything from there that begins by `end` becomes one range.
  while (at != end_of_.end() && at->first <= end) {
    begin = std::min(begin, at->first);
    end = std::max(end, at->second);
    at = end_of_.erase(at);
  }
  end_of_.emplace_hint(at, begin, end);
}

int64_t RangeSet::first_fit(int64_t bytes) const {
  int64_t at = 0;
  for (const auto& [begin, end] : end_of_) {
    if (begin - at >= bytes) return at;
    at = end;
  }
  return at;
}

}  // namespace cairn
