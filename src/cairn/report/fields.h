// Typed access to JSON that a user, or an enemy, wrote: every wrong type or value is a UserError that names file, line and field.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "cairn/report/data.h"

namespace cairn::report {

using Json = nlohmann::ordered_json;

// Parses one document. `where` names file (and line) in errors. Refuses nesting deeper than 64 (the library's writers recurse).
Json parse_json(std::string_view text, const std::string& where);
// The same without an exception: false if malformed; `reason` then says why.
bool try_parse_json(std::string_view text, Json* json, std::string* reason);

// The fields of one object. Absent and null are the same.
class Fields {
 public:
  Fields(const Json& object, std::string where);  // UserError if it is not an object
  bool has(const char* name) const;
  const Json& at(const char* name) const;                              // UserError if absent
  double number(const char* name) const;                               // finite, or kMissing if absent
  double number_in(const char* name, double low, double high) const;   // the same, within [low, high]
  int64_t integer(const char* name, int64_t low, int64_t high) const;  // must be there
  std::string text(const char* name) const;                            // a string; empty if absent; a number or bool in its JSON form
  const std::string& where() const { return where_; }
  const Json& object() const { return object_; }

 private:
  const Json& object_;
  std::string where_;
};

// Nested objects as ("a.b", value in JSON form; strings without quotes).
Pairs flatten(const Json& json);

}  // namespace cairn::report
