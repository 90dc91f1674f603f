// A set of byte ranges, kept sorted and merged: which parts of a file are taken.
#pragma once

#include <cstdint>
#include <map>

namespace cairn {

class RangeSet {
 public:
  void clear() { end_of_.clear(); }
  void insert(int64_t begin, int64_t end);  // may touch or overlap what is there; empty ranges add nothing
  // The first place >= 0 with `bytes` free bytes behind it; at the latest behind the last range.
  int64_t first_fit(int64_t bytes) const;
  int64_t end() const { return end_of_.empty() ? 0 : end_of_.rbegin()->second; }  // of the last range
  const std::map<int64_t, int64_t>& ranges() const { return end_of_; }            // begin -> end

 private:
  std::map<int64_t, int64_t> end_of_;
};

}  // namespace cairn
