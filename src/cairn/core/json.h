// Strict JSON for files that others may have written: nlohmann::json refuses bad syntax and bad UTF-8; this adds duplicate keys and nesting
// depth.
#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

namespace cairn {

// UserError "SOURCE: ..." for bad syntax (with line and column), duplicate keys of one object, or more than `max_depth` nested containers.
nlohmann::json parse_json(std::string_view text, std::string_view source_name, int max_depth = 64);

}  // namespace cairn
