// Options are declared once: name, variable (its value at declaration is the default), range or choices, help. The TOML parser, `--set`,
// `config show`, the documentation and the file of effective values all come from the same table (docs/architecture.md, principle 8).
// Unknown keys are errors that name the nearest known one.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "cairn/core/files.h"

namespace cairn {

class OptionTable {
 public:
  using Target =
      std::variant<bool*, int64_t*, double*, std::string*, std::vector<int64_t>*, std::vector<double>*, std::vector<std::string>*>;

  struct Option {
    std::string name;  // dotted: "model.window"
    Target target;
    std::string help;
    double low = -std::numeric_limits<double>::infinity(),
           high = std::numeric_limits<double>::infinity();  // numbers, each element of a list; inclusive
    std::vector<std::string> choices;                       // strings; empty = any
    bool given = false;                                     // set by a file or --set
    std::string default_text;                               // the value at declaration, in TOML form
  };

  // The target must outlive the table. Names are unique (a bug otherwise).
  void add(std::string name, bool* target, std::string help);
  void add(std::string name, int64_t* target, std::string help, double low = 0, double high = 9e18);
  void add(std::string name, double* target, std::string help, double low = -1e300, double high = 1e300);
  void add(std::string name, std::string* target, std::string help, std::vector<std::string> choices = {});
  void add(std::string name, std::vector<int64_t>* target, std::string help, double low = 0, double high = 9e18);
  void add(std::string name, std::vector<double>* target, std::string help, double low = -1e300, double high = 1e300);
  void add(std::string name, std::vector<std::string>* target, std::string help, std::vector<std::string> choices = {});

  // Reads a TOML document into the targets. UserError with file, line and the nearest known name for unknown keys, wrong types, values out
  // of range.
  void load_toml(const fs::path& path);
  void load_toml_text(std::string_view text, std::string_view source_name);
  // One "name=value" (value in TOML form; a bare word counts as a string; lengths such as 4K count as integers).
  void set(std::string_view assignment);
  // Reads a JSON object {"name": value} or nested objects (as to_json() writes them).
  void load_json_text(std::string_view text, std::string_view source_name);

  std::string to_toml(
      bool with_help) const;    // every option, sections by the first dot; with_help: commented and annotated, defaults marked
  std::string to_json() const;  // nested objects, effective values
  const std::vector<Option>& options() const { return options_; }
  bool given(std::string_view name) const;
  // The nearest declared name as "; did you mean 'x'?", or a list of names where none is near: the end of every "unknown option" message.
  std::string suggestion(std::string_view name) const;

 private:
  Option& declare(std::string name, Target target, std::string help);
  Option* find(std::string_view name);
  const Option* find(std::string_view name) const;
  bool has_section(std::string_view name) const;  // some option is called "name.…"
  template <typename Walker, typename Node>
  void walk(const Walker& walker, const Node& node, const std::string& name);
  std::vector<Option> options_;
};

// The candidate with the smallest edit distance to `name`, or empty when none is near.
std::string nearest_name(std::string_view name, const std::vector<std::string>& candidates);

}  // namespace cairn
