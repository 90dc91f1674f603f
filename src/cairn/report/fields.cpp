#include "cairn/report/fields.h"

#include <algorithm>
#include <cmath>

#include "cairn/core/error.h"

namespace cairn::report {
namespace {

constexpr int kMaxDepth = 64;

bool too_deep(std::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kMaxDepth) return true;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return false;
}

void flatten_into(const Json& json, const std::string& prefix, Pairs* out) {
  if (json.is_object()) {
    for (const auto& [key, value] : json.items()) flatten_into(value, prefix.empty() ? key : prefix + "." + key, out);
  } else if (!prefix.empty()) {
    out->emplace_back(prefix, json.is_string() ? json.get<std::string>() : json.dump(-1, ' ', false, Json::error_handler_t::replace));
  }
}

}  // namespace

bool try_parse_json(std::string_view text, Json* json, std::string* reason) {
  if (too_deep(text)) {
    *reason = fmt::format("nested deeper than {} levels", kMaxDepth);
    return false;
  }
  try {
    *json = Json::parse(text);
    return true;
  } catch (const nlohmann::json::parse_error& e) {
    const size_t at = std::min<size_t>(e.byte == 0 ? 0 : e.byte - 1, text.size());
    const auto line = 1 + std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(at), '\n');
    const size_t begin = at == 0 ? std::string_view::npos : text.rfind('\n', at - 1);
    const size_t column = at - (begin == std::string_view::npos ? 0 : begin + 1) + 1;
    *reason = at >= text.size() ? "not valid JSON: it ends in the middle (was the file cut off?)"
                                : fmt::format("not valid JSON at line {}, column {}", line, column);
  } catch (const nlohmann::json::exception&) {
    *reason = "not valid JSON: a number is too large";
  }
  return false;
}

Json parse_json(std::string_view text, const std::string& where) {
  Json json;
  std::string reason;
  if (!try_parse_json(text, &json, &reason)) throw UserError("{}: {}", where, reason);
  return json;
}

Fields::Fields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
  if (!object.is_object()) throw UserError("{}: expected an object {{...}}, found {}", where_, object.type_name());
}

bool Fields::has(const char* name) const {
  const auto it = object_.find(name);
  return it != object_.end() && !it->is_null();
}

const Json& Fields::at(const char* name) const {
  if (!has(name)) throw UserError("{}: the field \"{}\" is missing", where_, name);
  return object_.at(name);
}

double Fields::number(const char* name) const {
  if (!has(name)) return kMissing;
  const Json& value = object_.at(name);
  if (!value.is_number()) throw UserError("{}: \"{}\" must be a number or null, found {}", where_, name, value.type_name());
  return value.get<double>();
}

double Fields::number_in(const char* name, double low, double high) const {
  const double value = number(name);
  if (!std::isnan(value) && (value < low || value > high)) {
    throw UserError("{}: \"{}\" is {}, it must lie between {} and {}", where_, name, value, low, high);
  }
  return value;
}

int64_t Fields::integer(const char* name, int64_t low, int64_t high) const {
  const Json& value = at(name);
  if (!value.is_number_integer()) throw UserError("{}: \"{}\" must be a whole number, found {}", where_, name, value.type_name());
  const bool huge = value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  if (huge || value.get<int64_t>() < low || value.get<int64_t>() > high) {
    throw UserError("{}: \"{}\" is {}, it must lie between {} and {}", where_, name, value.dump(), low, high);
  }
  return value.get<int64_t>();
}

std::string Fields::text(const char* name) const {
  if (!has(name)) return {};
  const Json& value = object_.at(name);
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number() || value.is_boolean()) return value.dump();
  throw UserError("{}: \"{}\" must be text, found {}", where_, name, value.type_name());
}

Pairs flatten(const Json& json) {
  Pairs pairs;
  flatten_into(json, "", &pairs);
  return pairs;
}

}  // namespace cairn::report
