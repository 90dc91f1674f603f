#include "cairn/cli/command_line.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>
#include <vector>

#include "cairn/core/error.h"
#include "cairn/core/options.h"

namespace cairn {
namespace {

// The innermost subcommand that was reached, its full name ("cairn bench ops"), and the words that found no place on the way there.
CLI::App* innermost(CLI::App& app, std::string* full_name, std::vector<std::string>* left_over) {
  CLI::App* at = &app;
  *full_name = app.get_name();
  *left_over = app.remaining();
  while (!at->get_subcommands().empty()) {
    at = at->get_subcommands().back();
    *full_name += " " + at->get_name();
    for (const std::string& word : at->remaining()) left_over->push_back(word);
  }
  return at;
}

std::vector<std::string> command_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) names.push_back(command->get_name());
  return names;
}

std::vector<std::string> option_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  return names;
}

std::string did_you_mean(const std::string& word, const std::vector<std::string>& names) {
  const std::string near = nearest_name(word, names);
  if (!near.empty()) return fmt::format("; did you mean '{}'?", near);
  std::string list;
  for (const std::string& name : names) list += (list.empty() ? "" : ", ") + name;
  return list.empty() ? std::string() : "; known: " + list;
}

std::string describe(CLI::App& app, const CLI::ParseError& error) {
  std::string full_name;
  std::vector<std::string> rest;
  CLI::App* const command = innermost(app, &full_name, &rest);
  // By code: the name of an ExtrasError is that of the subcommand.
  const auto is = [&](CLI::ExitCodes code) { return error.get_exit_code() == static_cast<int>(code); };
  if (is(CLI::ExitCodes::ExtrasError) || is(CLI::ExitCodes::RequiredError)) {
    // A mistyped word also leaves "a subcommand is required" behind; the word is what the user wants to hear about.
    for (const std::string& word : rest) {
      if (word.size() > 1 && word[0] == '-') {
        const std::string name = word.substr(0, word.find('='));
        return fmt::format("{}: unknown option '{}'{}", full_name, name, did_you_mean(name, option_names(*command)));
      }
    }
    const std::vector<std::string> commands = command_names(*command);
    if (!rest.empty() && !commands.empty())
      return fmt::format("{}: unknown command '{}'{}", full_name, rest[0], did_you_mean(rest[0], commands));
    if (!rest.empty()) return fmt::format("{}: unexpected argument '{}'; `{} --help` shows what it takes", full_name, rest[0], full_name);
    if (!commands.empty()) return fmt::format("{}: a command is required{}", full_name, did_you_mean("", commands));
  }
  std::string what = error.what();
  what = what.substr(0, what.find('\n'));
  return fmt::format("{}: {}; `{} --help` shows what it takes", full_name, what, full_name);
}

}  // namespace

bool parse_command_line(Command& program, int argc, const char* const* argv, int* exit_code) {
  CLI::App& app = program.app();
  try {
    app.parse(argc, argv);
    return true;
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success)) {  // --help, --version
      *exit_code = app.exit(error);
      return false;
    }
    const std::string message = describe(app, error);
    std::fprintf(stderr, "%s\n", message.c_str());
    *exit_code = kExitUserError;
    return false;
  }
}

std::string given_command(const Command& program) {
  std::string name;
  for (const CLI::App* at = &program.app(); !at->get_subcommands().empty();) {
    at = at->get_subcommands().front();
    name += (name.empty() ? "" : " ") + at->get_name();
  }
  return name;
}

}  // namespace cairn
