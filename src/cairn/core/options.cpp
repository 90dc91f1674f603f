#include "cairn/core/options.h"

#include <toml++/toml.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <type_traits>

#include "cairn/core/error.h"
#include "cairn/core/json.h"

namespace cairn {
namespace {

using Json = nlohmann::ordered_json;
using Option = OptionTable::Option;

// One value on its way into an option, whatever it was read from.
struct Value {
  std::variant<std::monostate, bool, int64_t, double, std::string, std::vector<Value>> data;
  std::string shown;  // for messages
};

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
struct ElementOf {
  using type = T;
  static constexpr bool kList = false;
};
template <typename T>
struct ElementOf<std::vector<T>> {
  using type = T;
  static constexpr bool kList = true;
};

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

std::string join(const std::vector<std::string>& words, const char* separator) {
  std::string text;
  for (size_t i = 0; i < words.size(); ++i) text += (i ? separator : "") + words[i];
  return text;
}

// `where` ends with ": " or is empty.
template <typename T>
T convert_scalar(const Option& option, const Value& value, const std::string& where, const char* kind) {
  auto wrong = [&] { return UserError("{}option '{}' must be {}, not {}", where, option.name, kind, value.shown); };
  if constexpr (std::is_same_v<T, bool>) {
    if (const bool* b = std::get_if<bool>(&value.data)) return *b;
    throw wrong();
  } else if constexpr (std::is_same_v<T, std::string>) {
    const std::string* s = std::get_if<std::string>(&value.data);
    if (!s) throw wrong();
    if (!option.choices.empty() && std::find(option.choices.begin(), option.choices.end(), *s) == option.choices.end()) {
      const std::string near = nearest_name(*s, option.choices);
      throw UserError("{}option '{}' must be one of {}, not {}{}", where, option.name, join(option.choices, ", "), value.shown,
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

void assign(Option& option, const Value& value, const std::string& where) {
  std::visit(
      [&]<typename T>(T* target) {
        using Element = typename ElementOf<T>::type;
        constexpr const char* kind = kind_of<T>();
        if constexpr (ElementOf<T>::kList) {
          const auto* list = std::get_if<std::vector<Value>>(&value.data);
          if (!list) throw UserError("{}option '{}' must be {}, not {}", where, option.name, kind, value.shown);
          T result;
          for (const Value& element : *list) result.push_back(convert_scalar<Element>(option, element, where, kind));
          *target = std::move(result);
        } else {
          *target = convert_scalar<T>(option, value, where, kind);
        }
      },
      option.target);
  option.given = true;
}

Value value_of(const toml::node& node) {
  Value value;
  if (const auto* b = node.as_boolean()) {
    value = {b->get(), toml_form(b->get())};
  } else if (const auto* i = node.as_integer()) {
    value = {i->get(), toml_form(i->get())};
  } else if (const auto* d = node.as_floating_point()) {
    value = {d->get(), toml_form(d->get())};
  } else if (const auto* s = node.as_string()) {
    value = {s->get(), toml_string(s->get())};
  } else if (const auto* list = node.as_array()) {
    std::vector<Value> elements;
    for (const toml::node& element : *list) elements.push_back(value_of(element));
    value = {std::move(elements), "a list"};
  } else {
    value.shown = node.is_table() ? "a table" : "a date or time";
  }
  return value;
}

Value value_of(const nlohmann::json& node) {
  Value value;
  if (node.is_boolean()) {
    value.data = node.get<bool>();
  } else if (node.is_number_float() || (node.is_number_unsigned() && node.get<uint64_t>() > uint64_t{9223372036854775807u})) {
    value.data = node.get<double>();
  } else if (node.is_number()) {
    value.data = node.get<int64_t>();
  } else if (node.is_string()) {
    value.data = node.get<std::string>();
  } else if (node.is_array()) {
    std::vector<Value> elements;
    for (const auto& element : node) elements.push_back(value_of(element));
    value.data = std::move(elements);
  }
  value.shown = node.is_array()    ? "a list"
                : node.is_object() ? "an object"
                                   : node.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  return value;
}

std::string_view trim(std::string_view text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.front()))) text.remove_prefix(1);
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back()))) text.remove_suffix(1);
  return text;
}

// A value from the command line: TOML form if it parses as such (and is what a string option cannot mistake), otherwise a bare word.
Value value_of_word(std::string_view text, bool wants_string) {
  const std::string word(trim(text));
  const bool quoted_form = word.size() >= 2 && (word.front() == '"' || word.front() == '\'');
  if (!word.empty() && word.find('\n') == std::string::npos && (!wants_string || quoted_form)) {
    try {
      const toml::table table = toml::parse("x = " + word);
      if (const toml::node* node = table.get("x"); node && table.size() == 1 && !node->is_table()) return value_of(*node);
    } catch (const toml::parse_error&) {
      // not TOML: a bare word
    }
  }
  return {word, toml_string(word)};
}

Value value_of_assignment(const Option& option, std::string_view text) {
  return std::visit(
      [&]<typename T>(T*) -> Value {
        constexpr bool kStrings = std::is_same_v<typename ElementOf<T>::type, std::string>;
        if constexpr (!ElementOf<T>::kList) {
          return value_of_word(text, kStrings);
        } else {
          // [1, 2], ["a", "b"], and also without brackets or quotes: a,b
          Value whole = value_of_word(text, false);
          if (std::holds_alternative<std::vector<Value>>(whole.data)) return whole;
          std::string_view rest = trim(text);
          if (rest.size() >= 2 && rest.front() == '[' && rest.back() == ']') rest = trim(rest.substr(1, rest.size() - 2));
          std::vector<Value> elements;
          while (!rest.empty()) {
            const size_t comma = rest.find(',');
            elements.push_back(value_of_word(rest.substr(0, comma), kStrings));
            rest = comma == std::string_view::npos ? std::string_view{} : rest.substr(comma + 1);
          }
          return {std::move(elements), toml_string(text)};
        }
      },
      option.target);
}

std::string section_of(const std::string& name) {
  const size_t dot = name.find('.');
  return dot == std::string::npos ? std::string() : name.substr(0, dot);
}

std::string last_part(std::string_view name) {
  const size_t dot = name.rfind('.');
  return std::string(dot == std::string_view::npos ? name : name.substr(dot + 1));
}

}  // namespace

Option& OptionTable::declare(std::string name, Target target, std::string help) {
  CAIRN_CHECK(find(name) == nullptr, "option '{}' is declared twice", name);
  CAIRN_CHECK(!has_section(name), "option '{}' is also a section", name);
  Option option;
  option.name = std::move(name);
  option.target = target;
  option.help = std::move(help);
  option.default_text = toml_form(target);
  options_.push_back(std::move(option));
  return options_.back();
}

void OptionTable::add(std::string name, bool* target, std::string help) { declare(std::move(name), target, std::move(help)); }
void OptionTable::add(std::string name, int64_t* target, std::string help, double low, double high) {
  Option& option = declare(std::move(name), target, std::move(help));
  option.low = low, option.high = high;
}
void OptionTable::add(std::string name, double* target, std::string help, double low, double high) {
  Option& option = declare(std::move(name), target, std::move(help));
  option.low = low, option.high = high;
}
void OptionTable::add(std::string name, std::string* target, std::string help, std::vector<std::string> choices) {
  declare(std::move(name), target, std::move(help)).choices = std::move(choices);
}
void OptionTable::add(std::string name, std::vector<int64_t>* target, std::string help, double low, double high) {
  Option& option = declare(std::move(name), target, std::move(help));
  option.low = low, option.high = high;
}
void OptionTable::add(std::string name, std::vector<double>* target, std::string help, double low, double high) {
  Option& option = declare(std::move(name), target, std::move(help));
  option.low = low, option.high = high;
}
void OptionTable::add(std::string name, std::vector<std::string>* target, std::string help, std::vector<std::string> choices) {
  declare(std::move(name), target, std::move(help)).choices = std::move(choices);
}

const Option* OptionTable::find(std::string_view name) const {
  const auto found = std::find_if(options_.begin(), options_.end(), [&](const Option& option) { return option.name == name; });
  return found == options_.end() ? nullptr : &*found;
}
Option* OptionTable::find(std::string_view name) { return const_cast<Option*>(std::as_const(*this).find(name)); }

bool OptionTable::has_section(std::string_view name) const {
  const std::string prefix = std::string(name) + ".";
  return std::any_of(options_.begin(), options_.end(), [&](const Option& option) { return option.name.starts_with(prefix); });
}

bool OptionTable::given(std::string_view name) const {
  const Option* option = find(name);
  CAIRN_CHECK(option != nullptr, "option '{}' is not declared", name);
  return option->given;
}

std::string OptionTable::suggestion(std::string_view name) const {
  std::vector<std::string> names;
  for (const Option& option : options_) names.push_back(option.name);
  // The right word in the wrong section first, then the nearest whole name, then the nearest last word.
  std::vector<std::string> parts;
  for (const std::string& known : names) parts.push_back(last_part(known));
  auto with_part = [&](const std::string& part) {
    const auto found = std::find(parts.begin(), parts.end(), part);
    return part.empty() || found == parts.end() ? std::string() : names[static_cast<size_t>(found - parts.begin())];
  };
  std::string near = with_part(last_part(name));
  if (near.empty()) near = nearest_name(name, names);
  if (near.empty()) near = with_part(nearest_name(last_part(name), parts));
  if (!near.empty()) return fmt::format("; did you mean '{}'?", near);
  const std::string prefix = section_of(std::string(name)) + ".";
  std::vector<std::string> same_section;
  for (const std::string& known : names) {
    if (known.starts_with(prefix)) same_section.push_back(known);
  }
  const std::vector<std::string>& shown = same_section.empty() ? names : same_section;
  return shown.size() > 40 ? std::string("; `cairn config show` lists all names") : "; known: " + join(shown, ", ");
}

template <typename Walker, typename Node>
void OptionTable::walk(const Walker& walker, const Node& node, const std::string& name) {
  if (!name.empty()) {
    if (Option* option = find(name)) return assign(*option, value_of(node), walker.where(node));
    if (!walker.is_table(node) || !has_section(name))
      throw UserError("{}unknown option '{}'{}", walker.where(node), name, suggestion(name));
  }
  walker.each(node, [&](const std::string& key, const auto& child) { walk(walker, child, name.empty() ? key : name + "." + key); });
}

namespace {

struct TomlWalker {
  std::string source;
  std::string where(const toml::node& node) const { return fmt::format("{}:{}: ", source, node.source().begin.line); }
  bool is_table(const toml::node& node) const { return node.is_table(); }
  template <typename F>
  void each(const toml::node& node, F&& f) const {
    // In the order of the text, so that the first mistake is the one reported.
    std::vector<std::pair<std::string, const toml::node*>> children;
    for (const auto& [key, child] : *node.as_table()) children.emplace_back(std::string(std::string_view(key)), &child);
    std::stable_sort(children.begin(), children.end(),
                     [](const auto& a, const auto& b) { return a.second->source().begin.line < b.second->source().begin.line; });
    for (const auto& [key, child] : children) f(key, *child);
  }
};

struct JsonWalker {
  std::string source;
  std::string where(const nlohmann::json&) const { return source + ": "; }
  bool is_table(const nlohmann::json& node) const { return node.is_object(); }
  template <typename F>
  void each(const nlohmann::json& node, F&& f) const {
    for (const auto& [key, child] : node.items()) f(key, child);
  }
};

}  // namespace

void OptionTable::load_toml(const fs::path& path) { load_toml_text(read_file(path, int64_t{1} << 24), path.string()); }

void OptionTable::load_toml_text(std::string_view text, std::string_view source_name) {
  toml::table table;
  try {
    table = toml::parse(text, source_name);
  } catch (const toml::parse_error& error) {
    throw UserError("{}:{}: not valid TOML: {}", source_name, error.source().begin.line, error.description());
  }
  walk(TomlWalker{std::string(source_name)}, static_cast<const toml::node&>(table), {});
}

void OptionTable::load_json_text(std::string_view text, std::string_view source_name) {
  const nlohmann::json json = parse_json(text, source_name, 16);
  if (!json.is_object()) throw UserError("{}: must be a JSON object", source_name);
  walk(JsonWalker{std::string(source_name)}, json, {});
}

void OptionTable::set(std::string_view assignment) {
  const size_t equals = assignment.find('=');
  if (equals == std::string_view::npos) throw UserError("--set {}: expected NAME=VALUE", assignment);
  const std::string name(trim(assignment.substr(0, equals)));
  const std::string where = "--set: ";
  Option* option = find(name);
  if (!option) throw UserError("{}unknown option '{}'{}", where, name, suggestion(name));
  assign(*option, value_of_assignment(*option, assignment.substr(equals + 1)), where);
}

std::string OptionTable::to_toml(bool with_help) const {
  std::vector<std::string> sections = {""};
  for (const Option& option : options_) {
    const std::string section = section_of(option.name);
    if (std::find(sections.begin(), sections.end(), section) == sections.end()) sections.push_back(section);
  }
  std::string text;
  for (const std::string& section : sections) {
    std::string body;
    for (const Option& option : options_) {
      if (section_of(option.name) != section) continue;
      const std::string key = section.empty() ? option.name : option.name.substr(section.size() + 1);
      const std::string value = toml_form(option.target);
      if (!with_help) {
        body += key + " = " + value + "\n";
        continue;
      }
      std::string limits = option.choices.empty() ? range_text(option) : join(option.choices, " | ");
      if (std::holds_alternative<bool*>(option.target)) limits = "true | false";
      const bool changed = value != option.default_text;
      body += "# " + option.help + (limits.empty() ? "" : " [" + limits + "]") +
              (changed ? " (default: " + option.default_text + ")" : "") + "\n";
      body += (changed ? "" : "# ") + key + " = " + value + "\n";
    }
    if (body.empty()) continue;
    if (!text.empty()) text += "\n";
    if (!section.empty()) text += "[" + section + "]\n";
    text += body;
  }
  return text;
}

std::string OptionTable::to_json() const {
  Json json = Json::object();
  for (const Option& option : options_) {
    Json* node = &json;
    size_t begin = 0;
    for (size_t dot; (dot = option.name.find('.', begin)) != std::string::npos; begin = dot + 1)
      node = &(*node)[option.name.substr(begin, dot - begin)];
    std::visit([&](auto* value) { (*node)[option.name.substr(begin)] = *value; }, option.target);
  }
  return json.dump(2) + "\n";
}

}  // namespace cairn
