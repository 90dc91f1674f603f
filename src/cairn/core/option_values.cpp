#include "cairn/core/option_values.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "cairn/core/error.h"

namespace cairn {

using Option = OptionTable::Option;

std::string toml_string(std::string_view text) {
  std::string result = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') {
      result += '\\', result += c;
    } else if (c == '\n') {
      result += "\\n";
    } else if (c == '\t') {
      result += "\\t";
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      result += fmt::format("\\u{:04X}", static_cast<unsigned>(c));
    } else {
      result += c;
    }
  }
  return result + '"';
}

std::string toml_form(bool value) { return value ? "true" : "false"; }
std::string toml_form(int64_t value) { return fmt::format("{}", value); }
std::string toml_form(const std::string& value) { return toml_string(value); }
std::string toml_form(double value) {
  std::string text = fmt::format("{}", value);  // the shortest form that reads back equal
  if (text.find_first_not_of("-0123456789") == std::string::npos) text += ".0";
  return text;
}
template <typename T>
std::string toml_form(const std::vector<T>& values) {
  std::string text = "[";
  for (size_t i = 0; i < values.size(); ++i) text += (i ? ", " : "") + toml_form(values[i]);
  return text + "]";
}
std::string toml_form(const OptionTable::Target& target) {
  return std::visit([](auto* pointer) { return toml_form(*pointer); }, target);
}

template <typename T>
constexpr const char* kind_of() {
  if constexpr (std::is_same_v<T, bool>) return "true or false";
  if constexpr (std::is_same_v<T, int64_t>) return "an integer";
  if constexpr (std::is_same_v<T, double>) return "a number";
  if constexpr (std::is_same_v<T, std::string>) return "a string";
  if constexpr (std::is_same_v<T, std::vector<int64_t>>) return "a list of integers";
  if constexpr (std::is_same_v<T, std::vector<double>>) return "a list of numbers";
  if constexpr (std::is_same_v<T, std::vector<std::string>>) return "a list of strings";
}

// 1e300 and 9e18 are the defaults of add(): they stand for "any".
std::string bound(double value) {
  return value == std::floor(value) && std::abs(value) < 1e15 ? fmt::format("{:.0f}", value) : fmt::format("{}", value);
}
std::string range_text(const Option& option) {
  const bool low = option.low > -1e300, high = option.high < 9e18;
  if (low && high) return fmt::format("{} to {}", bound(option.low), bound(option.high));
  if (low) return fmt::format("{} or more", bound(option.low));
  if (high) return fmt::format("{} or less", bound(option.high));
  return {};
}

std::string join_words(const std::vector<std::string>& words, const char* separator) {
  std::string text;
  for (size_t i = 0; i < words.size(); ++i) text += (i ? separator : "") + words[i];
  return text;
}

// `where` ends with ": " or is empty.
template <typename T>
T convert_scalar(const Option& option, const OptionValue& value, const std::string& where, const char* kind) {
  auto wrong = [&] { return UserError("{}option '{}' must be {}, not {}", where, option.name, kind, value.shown); };
  if constexpr (std::is_same_v<T, bool>) {
    if (const bool* b = std::get_if<bool>(&value.data)) return *b;
    throw wrong();
  } else if constexpr (std::is_same_v<T, std::string>) {
    const std::string* s = std::get_if<std::string>(&value.data);
    if (!s) throw wrong();
    if (!option.choices.empty() && std::find(option.choices.begin(), option.choices.end(), *s) == option.choices.end()) {
      const std::string near = nearest_name(*s, option.choices);
      throw UserError("{}option '{}' must be one of {}, not {}{}", where, option.name, join_words(option.choices, ", "), value.shown,
                      near.empty() ? "" : fmt::format("; did you mean '{}'?", near));
    }
    return *s;
  } else {
    T number{};
    if (const int64_t* i = std::get_if<int64_t>(&value.data)) {
      number = static_cast<T>(*i);
    } else if (const double* d = std::get_if<double>(&value.data); d && std::is_same_v<T, double>) {
      number = static_cast<T>(*d);
    } else if (const std::string* s = std::get_if<std::string>(&value.data)) {
      int64_t length = 0;  // "4K"
      if (!parse_length(*s, &length)) throw wrong();
      number = static_cast<T>(length);
    } else {
      throw wrong();
    }
    const double as_double = static_cast<double>(number);
    if (!(as_double >= option.low && as_double <= option.high)) {  // also refuses "not a number"
      const std::string range = range_text(option);
      throw UserError("{}option '{}' must be {}, not {}", where, option.name, range.empty() ? "finite" : range, value.shown);
    }
    return number;
  }
}

void assign_option(Option& option, const OptionValue& value, const std::string& where) {
  std::visit(
      [&]<typename T>(T* target) {
        using Element = typename ElementOf<T>::type;
        constexpr const char* kind = kind_of<T>();
        if constexpr (ElementOf<T>::kList) {
          const auto* list = std::get_if<std::vector<OptionValue>>(&value.data);
          if (!list) throw UserError("{}option '{}' must be {}, not {}", where, option.name, kind, value.shown);
          T result;
          for (const OptionValue& element : *list) result.push_back(convert_scalar<Element>(option, element, where, kind));
          *target = std::move(result);
        } else {
          *target = convert_scalar<T>(option, value, where, kind);
        }
      },
      option.target);
  option.given = true;
}

}  // namespace cairn
