#include "cairn/cli/completion_scripts.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <functional>
#include <iterator>

#include "cairn/core/error.h"

namespace cairn {
namespace {

using Kind = CompletionValue::Kind;

// Words go into scripts as they are, so none may mean anything to a shell.
void check_word(const std::string& word) {
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           std::string_view("-_.+@%:/").find(c) != std::string_view::npos;
  };
  CAIRN_CHECK(!word.empty() && std::all_of(word.begin(), word.end(), plain), "'{}' needs quoting in a completion script", word);
}

void check_words(const CompletionCommand& command) {
  check_word(command.name);
  const auto value = [](const CompletionValue& v) { std::for_each(v.choices.begin(), v.choices.end(), check_word); };
  for (const CompletionOption& option : command.options) {
    std::for_each(option.names.begin(), option.names.end(), check_word);
    value(option.value);
  }
  std::for_each(command.positionals.begin(), command.positionals.end(), value);
  std::for_each(command.commands.begin(), command.commands.end(), check_words);
}

// Calls visit(command, path) for the program (path "") and everything below it ("bench", "bench ops").
void walk(const CompletionCommand& command, const std::string& path,
          const std::function<void(const CompletionCommand&, const std::string&)>& visit) {
  visit(command, path);
  for (const CompletionCommand& sub : command.commands) walk(sub, path.empty() ? sub.name : path + " " + sub.name, visit);
}

// Shell patterns of all steps from one command to the next, "PATH:WORD".
std::vector<std::string> steps(const CompletionCommand& program) {
  std::vector<std::string> found;
  walk(program, "", [&](const CompletionCommand& command, const std::string& path) {
    for (const CompletionCommand& sub : command.commands) found.push_back(fmt::format("'{}:{}'", path, sub.name));
  });
  return found;
}

std::vector<std::string> option_names(const CompletionCommand& command) {
  std::vector<std::string> names;
  for (const CompletionOption& option : command.options) names.insert(names.end(), option.names.begin(), option.names.end());
  return names;
}

std::vector<std::string> command_names(const CompletionCommand& command) {
  std::vector<std::string> names;
  for (const CompletionCommand& sub : command.commands) names.push_back(sub.name);
  return names;
}

// What all positionals of a command can be: choices together, and whether a file is among them.
CompletionValue positional_value(const CompletionCommand& command) {
  CompletionValue all;
  for (const CompletionValue& value : command.positionals) {
    if (value.kind == Kind::kFile) all.kind = Kind::kFile;
    all.choices.insert(all.choices.end(), value.choices.begin(), value.choices.end());
  }
  if (all.kind != Kind::kFile && !all.choices.empty()) all.kind = Kind::kChoices;
  return all;
}

// A single-quoted string; `quote` is how the shell writes a quote inside one.
std::string quoted(const std::string& text, const char* quote, bool backslashes = false) {
  std::string out = "'";
  for (const char c : text) {
    if (c == '\'') {
      out += quote;
    } else if (c == '\\' && backslashes) {
      out += "\\\\";
    } else {
      out += c == '\n' ? ' ' : c;
    }
  }
  return out + "'";
}

// Text inside a specification of zsh's _arguments or _describe.
std::string zsh_text(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '[' || c == ']' || c == ':' || c == '\\') out += '\\';
    out += c;
  }
  return out;
}

std::string zsh_quoted(const std::string& text) { return quoted(text, "'\\''"); }

std::string zsh_value(const CompletionValue& value) {
  switch (value.kind) {
    case Kind::kNone:
      return "";
    case Kind::kChoices: {
      std::vector<std::string> choices;
      for (const std::string& choice : value.choices) choices.push_back(zsh_text(choice));
      return fmt::format(":value:({})", fmt::join(choices, " "));
    }
    case Kind::kFile:
      return ":file:_files";
    case Kind::kOther:
      return ":value: ";
  }
  return "";
}

std::string function_name(const CompletionCommand& program, const std::string& path) {
  std::string name = "_" + program.name + (path.empty() ? "" : "_" + path);
  for (char& c : name) {
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  }
  return name;
}

}  // namespace

std::string bash_completion(const CompletionCommand& program) {
  check_words(program);
  std::string out = fmt::format("# bash completion of {0}; load it with: source <({0} completion bash)\n", program.name);
  auto to = std::back_inserter(out);
  const std::string function = function_name(program, "");
  fmt::format_to(to, R"({}() {{
  local cur=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} path= i words= options=
  # --name=value comes as three words.
  if [[ $cur == = ]]; then
    cur=
  elif [[ $before == = && COMP_CWORD -ge 2 ]]; then
    before=${{COMP_WORDS[COMP_CWORD-2]}}
  fi
  for ((i = 1; i < COMP_CWORD; ++i)); do
    case "$path:${{COMP_WORDS[i]}}" in
      {}) path="${{path:+$path }}${{COMP_WORDS[i]}}" ;;
    esac
  done
  COMPREPLY=()
  case "$path:$before" in
)",
                 function, fmt::join(steps(program), " | "));
  walk(program, "", [&](const CompletionCommand& command, const std::string& path) {
    for (const CompletionOption& option : command.options) {
      if (option.value.kind == Kind::kNone) continue;
      std::vector<std::string> patterns;
      for (const std::string& name : option.names) patterns.push_back(fmt::format("'{}:{}'", path, name));
      fmt::format_to(to, "    {})", fmt::join(patterns, " | "));
      if (option.value.kind == Kind::kChoices) {
        fmt::format_to(to, " COMPREPLY=($(compgen -W '{}' -- \"$cur\"));", fmt::join(option.value.choices, " "));
      } else if (option.value.kind == Kind::kFile) {
        out += " compopt -o default 2> /dev/null;";
      }
      out += " return ;;\n";
    }
  });
  out += "  esac\n  case \"$path\" in\n";
  walk(program, "", [&](const CompletionCommand& command, const std::string& path) {
    const CompletionValue value = positional_value(command);
    std::vector<std::string> words = command_names(command);
    words.insert(words.end(), value.choices.begin(), value.choices.end());
    fmt::format_to(to, "    '{}') options='{}' words='{}'", path, fmt::join(option_names(command), " "), fmt::join(words, " "));
    if (value.kind == Kind::kFile) out += "; [[ $cur == -* ]] || compopt -o default 2> /dev/null";
    out += " ;;\n";
  });
  fmt::format_to(to, R"(  esac
  [[ $cur == -* ]] && words=$options
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}}
complete -F {} {}
)",
                 function, program.name);
  return out;
}

std::string zsh_completion(const CompletionCommand& program) {
  check_words(program);
  std::string out = fmt::format("#compdef {0}\n# zsh completion of {0}; load it with: source <({0} completion zsh)\n", program.name);
  auto to = std::back_inserter(out);
  walk(program, "", [&](const CompletionCommand& command, const std::string& path) {
    const std::string function = function_name(program, path);
    fmt::format_to(to, "\n{}() {{\n", function);
    if (!command.commands.empty()) {
      out += "  local curcontext=\"$curcontext\" state line\n  local -a commands\n  commands=(\n";
      for (const CompletionCommand& sub : command.commands) fmt::format_to(to, "    {}\n", zsh_quoted(sub.name + ":" + zsh_text(sub.help)));
      out += "  )\n";
    }
    fmt::format_to(to, "  _arguments {}", command.commands.empty() ? "-s" : "-C");
    for (const CompletionOption& option : command.options) {
      const std::string rest = "[" + zsh_text(option.help) + "]" + zsh_value(option.value);
      for (const std::string& name : option.names) {
        // A long name takes its value after = or a space, a short one at once or after a space; each may come again.
        const char* joint = option.value.kind == Kind::kNone ? "" : name.starts_with("--") ? "=" : "+";
        fmt::format_to(to, " \\\n    {}", zsh_quoted("*" + name + joint + rest));
      }
    }
    if (!command.commands.empty()) {
      out +=
          " \\\n    '1: :->command' '*:: :->rest'\n  case $state in\n    command) _describe -t commands command commands ;;\n    rest)\n"
          "      case $line[1] in\n";
      for (const CompletionCommand& sub : command.commands)
        fmt::format_to(to, "        {}) {} ;;\n", sub.name, function_name(program, path.empty() ? sub.name : path + " " + sub.name));
      out += "      esac ;;\n  esac\n}\n";
    } else {
      const CompletionValue value = positional_value(command);
      if (value.kind != Kind::kNone) fmt::format_to(to, " \\\n    {}", zsh_quoted("*" + zsh_value(value)));
      out += "\n}\n";
    }
  });
  const std::string function = function_name(program, "");
  fmt::format_to(to, "\nif [ \"$funcstack[1]\" = \"{0}\" ]; then\n  {0} \"$@\"\nelse\n  compdef {0} {1}\nfi\n", function, program.name);
  return out;
}

std::string fish_completion(const CompletionCommand& program) {
  check_words(program);
  std::string out = fmt::format("# fish completion of {0}; load it with: {0} completion fish | source\n", program.name);
  auto to = std::back_inserter(out);
  const std::string at = "_" + function_name(program, "") + "_at";
  fmt::format_to(to, R"(function {} --description 'true if the words so far name just this command'
  set -l path
  for word in (commandline -opc)[2..-1]
    switch "$path:$word"
      case {}
        set path (string trim -- "$path $word")
    end
  end
  test "$path" = "$argv[1]"
end
complete -c {} -f
)",
                 at, fmt::join(steps(program), " "), program.name);
  walk(program, "", [&](const CompletionCommand& command, const std::string& path) {
    const std::string condition = fmt::format("complete -c {} -n '{} \"{}\"'", program.name, at, path);
    for (const CompletionCommand& sub : command.commands)
      fmt::format_to(to, "{} -a {} -d {}\n", condition, sub.name, quoted(sub.help, "\\'", true));
    for (const CompletionOption& option : command.options) {
      out += condition;
      for (const std::string& name : option.names) {
        if (name.starts_with("--")) {
          out += " -l " + name.substr(2);
        } else {
          out += " -s " + name.substr(1);
        }
      }
      if (option.value.kind == Kind::kChoices) fmt::format_to(to, " -x -a '{}'", fmt::join(option.value.choices, " "));
      if (option.value.kind == Kind::kFile) out += " -r -F";
      if (option.value.kind == Kind::kOther) out += " -x";
      fmt::format_to(to, " -d {}\n", quoted(option.help, "\\'", true));
    }
    const CompletionValue value = positional_value(command);
    if (!value.choices.empty()) fmt::format_to(to, "{} -a '{}'\n", condition, fmt::join(value.choices, " "));
    if (value.kind == Kind::kFile) fmt::format_to(to, "{} -F\n", condition);
  });
  return out;
}

}  // namespace cairn
