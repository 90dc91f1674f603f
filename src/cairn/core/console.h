// The one door to stderr that log lines and progress lines share, so that a log line never lands inside a rewritten progress line. Private
// to core.
#pragma once

#include <string>

namespace cairn::console {

bool is_terminal();                             // stderr is a terminal
void print_line(const std::string& line);       // a whole line; a progress line that is showing is redrawn under it
void show_progress(const std::string& line);    // terminal only: replaces the progress line
void finish_progress(const std::string& line);  // the last progress line (may be empty); stays as an ordinary line
int columns();                                  // width of the terminal, 80 if unknown

}  // namespace cairn::console
