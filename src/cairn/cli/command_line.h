// Parsing with messages that name the nearest valid word.
#pragma once

#include <string>

#include "cairn/cli/command.h"

namespace cairn {

// True if a subcommand is to be run. Otherwise help, version or one line about the mistake was printed, and *exit_code is 0 or 2.
bool parse_command_line(Command& program, int argc, const char* const* argv, int* exit_code);

// "bench read": the words of the command that was given.
std::string given_command(const Command& program);

}  // namespace cairn
