// Options from TOML, JSON and the command line.
#include <algorithm>

#include "cairn/core/error.h"
#include "cairn/core/json.h"
#include "cairn/core/option_values.h"
#include "cairn/core/options.h"
#include "cairn/core/toml_library.h"

namespace cairn {
namespace {

using Option = OptionTable::Option;

OptionValue value_of(const toml::node& node) {
  OptionValue value;
  if (const auto* b = node.as_boolean()) {
    value = {b->get(), toml_form(b->get())};
  } else if (const auto* i = node.as_integer()) {
    value = {i->get(), toml_form(i->get())};
  } else if (const auto* d = node.as_floating_point()) {
    value = {d->get(), toml_form(d->get())};
  } else if (const auto* s = node.as_string()) {
    value = {s->get(), toml_string(s->get())};
  } else if (const auto* list = node.as_array()) {
    std::vector<OptionValue> elements;
    for (const toml::node& element : *list) elements.push_back(value_of(element));
    value = {std::move(elements), "a list"};
  } else {
    value.shown = node.is_table() ? "a table" : "a date or time";
  }
  return value;
}

OptionValue value_of(const nlohmann::json& node) {
  OptionValue value;
  if (node.is_boolean()) {
    value.data = node.get<bool>();
  } else if (node.is_number_float() || (node.is_number_unsigned() && node.get<uint64_t>() > uint64_t{9223372036854775807u})) {
    value.data = node.get<double>();
  } else if (node.is_number()) {
    value.data = node.get<int64_t>();
  } else if (node.is_string()) {
    value.data = node.get<std::string>();
  } else if (node.is_array()) {
    std::vector<OptionValue> elements;
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
OptionValue value_of_word(std::string_view text, bool wants_string) {
  const std::string word(trim(text));
  const bool quoted_form = word.size() >= 2 && (word.front() == '"' || word.front() == '\'');
  if (!word.empty() && word.find('\n') == std::string::npos && (!wants_string || quoted_form)) {
    try {
      const toml::table table = toml::parse("x = " + word);
      if (const toml::node* node = table.get("x"); node && table.size() == 1 && !node->is_table()) return value_of(*node);
    } catch (const toml::parse_error&) {
      // not TOML: a bare word
    } catch (const TomlBroken&) {
    }
  }
  return {word, toml_string(word)};
}

OptionValue value_of_assignment(const Option& option, std::string_view text) {
  return std::visit(
      [&]<typename T>(T*) -> OptionValue {
        constexpr bool kStrings = std::is_same_v<typename ElementOf<T>::type, std::string>;
        if constexpr (!ElementOf<T>::kList) {
          return value_of_word(text, kStrings);
        } else {
          // [1, 2], ["a", "b"], and also without brackets or quotes: a,b
          OptionValue whole = value_of_word(text, false);
          if (std::holds_alternative<std::vector<OptionValue>>(whole.data)) return whole;
          std::string_view rest = trim(text);
          if (rest.size() >= 2 && rest.front() == '[' && rest.back() == ']') rest = trim(rest.substr(1, rest.size() - 2));
          std::vector<OptionValue> elements;
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

}  // namespace

template <typename Walker, typename Node>
void OptionTable::walk(const Walker& walker, const Node& node, const std::string& name) {
  if (!name.empty()) {
    if (Option* option = find(name)) return assign_option(*option, value_of(node), walker.where(node));
    if (!walker.is_table(node) || !has_section(name))
      throw UserError("{}unknown option '{}'{}", walker.where(node), name, suggestion(name));
  }
  walker.each(node, [&](const std::string& key, const auto& child) {
    // The empty name stands for the whole document.
    if (key.empty()) throw UserError("{}a key is empty{}", walker.where(child), name.empty() ? name : " in '" + name + "'");
    walk(walker, child, name.empty() ? key : name + "." + key);
  });
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
  } catch (const TomlBroken&) {
    throw UserError("{}: not valid TOML: a [table header] or a key begins with a character that must not be there", source_name);
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
  assign_option(*option, value_of_assignment(*option, assignment.substr(equals + 1)), where);
}

}  // namespace cairn
