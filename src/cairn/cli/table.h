// Two columns on stdout: names and values.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace cairn {

class Table {
 public:
  void row(std::string name, std::string value);
  void print() const;  // names padded to one width; control characters of values (they may come from files) shown as '?'

 private:
  std::vector<std::pair<std::string, std::string>> rows_;
};

}  // namespace cairn
