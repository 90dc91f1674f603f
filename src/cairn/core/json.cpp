#include "cairn/core/json.h"

#include <set>
#include <string>
#include <vector>

#include "cairn/core/error.h"

namespace cairn {

nlohmann::json parse_json(std::string_view text, std::string_view source_name, int max_depth) {
  using Json = nlohmann::json;
  std::vector<std::set<std::string>> keys;  // of the objects (empty for arrays) that are open
  auto watch = [&](int, Json::parse_event_t event, Json& parsed) {
    switch (event) {
      case Json::parse_event_t::object_start:
      case Json::parse_event_t::array_start:
        if (static_cast<int>(keys.size()) >= max_depth) throw UserError("{}: JSON is nested more than {} deep", source_name, max_depth);
        keys.emplace_back();
        break;
      case Json::parse_event_t::object_end:
      case Json::parse_event_t::array_end:
        keys.pop_back();
        break;
      case Json::parse_event_t::key: {
        const auto& key = parsed.get_ref<const std::string&>();
        if (!keys.back().insert(key).second) throw UserError("{}: the key '{}' occurs twice", source_name, key);
        break;
      }
      case Json::parse_event_t::value:
        break;
    }
    return true;
  };
  try {
    return Json::parse(text.begin(), text.end(), watch);
  } catch (const Json::exception& error) {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: ..." without the library's tag.
    std::string what = error.what();
    const size_t tag_end = what.find("] ");
    if (what.starts_with("[json") && tag_end != std::string::npos) what = what.substr(tag_end + 2);
    throw UserError("{}: not valid JSON: {}", source_name, what);
  }
}

}  // namespace cairn
