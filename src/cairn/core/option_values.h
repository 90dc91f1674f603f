// Values on their way into options and back to text. Private to core.
#pragma once

#include <string>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

#include "cairn/core/options.h"

namespace cairn {

// One value on its way into an option, whatever it was read from.
struct OptionValue {
  std::variant<std::monostate, bool, int64_t, double, std::string, std::vector<OptionValue>> data;
  std::string shown;  // for messages
};

template <typename T>
struct ElementOf {
  using type = T;
  static constexpr bool kList = false;
};
template <typename T>
struct ElementOf<std::vector<T>> {
  using type = T;
  static constexpr bool kList = true;
};

// Checks type, range and choices, then assigns. `where` begins every message: "FILE:LINE: ", or empty.
void assign_option(OptionTable::Option& option, const OptionValue& value, const std::string& where);

std::string toml_string(std::string_view text);  // quoted
std::string toml_form(bool value);
std::string toml_form(int64_t value);
std::string toml_form(double value);                        // the shortest form that reads back equal
std::string toml_form(const OptionTable::Target& target);   // of the value that it points to
std::string range_text(const OptionTable::Option& option);  // "1 to 64", "0 or more"; empty: any
std::string join_words(const std::vector<std::string>& words, const char* separator);

}  // namespace cairn
