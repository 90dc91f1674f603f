// Completion scripts of three shells, written from a description of the program's commands.
#pragma once

#include <string>
#include <vector>

namespace cairn {

// What can follow a name: nothing (a flag), one of `choices`, a file, or something that a shell cannot know (a number).
struct CompletionValue {
  enum class Kind { kNone, kChoices, kFile, kOther };
  Kind kind = Kind::kNone;
  std::vector<std::string> choices;
};

struct CompletionOption {
  std::vector<std::string> names;  // with their dashes: "-o", "--output"
  std::string help;
  CompletionValue value;
};

struct CompletionCommand {
  std::string name, help;
  std::vector<CompletionOption> options;
  std::vector<CompletionValue> positionals;  // in order; the last one may repeat
  std::vector<CompletionCommand> commands;
};

// `program` is the root: its name is what the user types. Names and choices consist of letters, digits and -_.+@%:/ (a bug otherwise).
std::string bash_completion(const CompletionCommand& program);
std::string zsh_completion(const CompletionCommand& program);
std::string fish_completion(const CompletionCommand& program);

}  // namespace cairn
