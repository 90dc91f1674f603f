// cairn completion: scripts for bash, zsh and fish, generated from the commands and options as the parser knows them, so that they never
// go stale.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>

#include "cairn/cli/commands.h"
#include "cairn/cli/completion_scripts.h"

namespace cairn {
namespace {

// CLI11 keeps choices in the name of the type only: "TEXT:{cpu,cuda}".
CompletionValue value_of(const CLI::Option& option) {
  using Kind = CompletionValue::Kind;
  if (option.get_items_expected_max() == 0) return {Kind::kNone, {}};
  const std::string type = option.get_type_name();
  const size_t begin = type.find('{'), end = type.rfind('}');
  if (begin != std::string::npos && end != std::string::npos && begin < end) {
    CompletionValue value{Kind::kChoices, {}};
    for (size_t at = begin + 1; at <= end;) {
      const size_t comma = std::min(type.find(',', at), end);
      value.choices.push_back(type.substr(at, comma - at));
      at = comma + 1;
    }
    return value;
  }
  for (const char* number : {"INT", "UINT", "FLOAT"}) {
    if (type == number || type.starts_with(std::string(number) + ":")) return {Kind::kOther, {}};
  }
  return {Kind::kFile, {}};
}

CompletionCommand describe(const CLI::App& app) {
  CompletionCommand command{app.get_name(), app.get_description(), {}, {}, {}};
  for (const CLI::Option* option : app.get_options()) {
    if (option->get_group().empty()) continue;  // hidden
    CompletionOption described{{}, option->get_description(), value_of(*option)};
    for (const std::string& name : option->get_snames()) described.names.push_back("-" + name);
    for (const std::string& name : option->get_lnames()) described.names.push_back("--" + name);
    if (!described.names.empty()) command.options.push_back(described);
    if (option->get_positional()) command.positionals.push_back(described.value);
  }
  for (const CLI::App* sub : app.get_subcommands([](const CLI::App* one) { return !one->get_group().empty(); })) {
    command.commands.push_back(describe(*sub));
  }
  return command;
}

}  // namespace

void add_completion(Command& app, Action* action) {
  Command* command = app.add_subcommand("completion", "Print a script that makes a shell complete commands and options");
  auto shell = std::make_shared<std::string>();
  command->add_option("SHELL", *shell, "bash, zsh or fish")->required()->one_of({"bash", "zsh", "fish"});
  command->footer(
      "bash: source <(cairn completion bash)   in ~/.bashrc\n"
      "zsh:  source <(cairn completion zsh)    in ~/.zshrc, after compinit\n"
      "fish: cairn completion fish > ~/.config/fish/completions/cairn.fish");
  // The whole tree is there only after all commands were added, so it is read when the action runs.
  command->callback([shell, &app, action] {
    *action = [shell, &app] {
      const CompletionCommand program = describe(app.app());
      const std::string script = *shell == "bash"  ? bash_completion(program)
                                 : *shell == "zsh" ? zsh_completion(program)
                                                   : fish_completion(program);
      std::fwrite(script.data(), 1, script.size(), stdout);
      return 0;
    };
  });
}

}  // namespace cairn
