#include "cairn/core/options.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "cairn/core/error.h"
#include "cairn/core/option_values.h"

namespace cairn {
namespace {

using Json = nlohmann::ordered_json;
using Option = OptionTable::Option;

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
  return shown.size() > 40 ? std::string("; `cairn config show` lists all names") : "; known: " + join_words(shown, ", ");
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
      std::string limits = option.choices.empty() ? range_text(option) : join_words(option.choices, " | ");
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
