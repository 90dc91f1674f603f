// Parsing with messages that name the nearest valid word.
#pragma once

#include <CLI/CLI.hpp>

namespace cairn {

// True if a subcommand is to be run. Otherwise help, version or one line about the mistake was printed, and *exit_code is 0 or 2.
bool parse_command_line(CLI::App& app, int argc, const char* const* argv, int* exit_code);

}  // namespace cairn
