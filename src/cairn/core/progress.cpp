#include "cairn/core/progress.h"

#include <fmt/format.h>

#include <atomic>
#include <csignal>

#include "cairn/core/console.h"
#include "cairn/core/files.h"
#include "cairn/core/log.h"

namespace cairn {
namespace {

constexpr double kTerminalSeconds = 0.2, kLogSeconds = 5.0;

// 1234567 -> "1.23M", 999 -> "999": decimal, three digits.
std::string short_number(double value) {
  static constexpr const char* kUnits[] = {"", "k", "M", "G", "T"};
  int unit = 0;
  while (value >= 999.5 && unit < 4) value /= 1000, ++unit;
  if (unit == 0 && value == static_cast<int64_t>(value)) return fmt::format("{:.0f}", value);
  return fmt::format("{:.{}f}{}", value, value < 9.995 ? 2 : value < 99.95 ? 1 : 0, kUnits[unit]);
}

volatile std::sig_atomic_t stop_signal = 0;

extern "C" void remember_stop(int signal_number) {
  stop_signal = signal_number;
  // The next signal of either kind ends the process at once.
  std::signal(SIGINT, SIG_DFL);
  std::signal(SIGTERM, SIG_DFL);
}

}  // namespace

Progress::Progress(std::string title, int64_t total, std::string unit)
    : title_(std::move(title)),
      unit_(std::move(unit)),
      total_(total),
      start_(std::chrono::steady_clock::now()),
      last_print_(start_),
      terminal_(console::is_terminal()) {}

Progress::~Progress() {
  if (!finished_ && terminal_) console::finish_progress({});  // an error is on its way out: leave a clean line for it
}

double Progress::seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

void Progress::update(int64_t done, const std::string& note) {
  done_ = done;
  const auto now = std::chrono::steady_clock::now();
  if (std::chrono::duration<double>(now - last_print_).count() < (terminal_ ? kTerminalSeconds : kLogSeconds)) return;
  last_print_ = now;
  print(note, false);
}

void Progress::finish(const std::string& note) {
  if (finished_) return;
  finished_ = true;
  print(note, true);
}

void Progress::print(const std::string& note, bool last) {
  if (!log_enabled(LogLevel::kInfo)) return;
  const double elapsed = seconds();
  const double rate = elapsed > 0 ? static_cast<double>(done_) / elapsed : 0;
  std::string line = title_ + ": " + short_number(static_cast<double>(done_));
  if (total_ > 0 && !last) line += "/" + short_number(static_cast<double>(total_));
  line += " " + unit_;
  if (total_ > 0 && !last) line += fmt::format(" ({:.0f} %)", 100.0 * static_cast<double>(done_) / static_cast<double>(total_));
  line += fmt::format(", {} {}/s", short_number(rate), unit_);
  if (last) {
    line += ", " + format_duration(elapsed);
  } else if (total_ > 0 && rate > 0) {
    line += ", " + format_duration(static_cast<double>(total_ - done_) / rate) + " left";
  }
  if (!note.empty()) line += ", " + note;
  if (last && terminal_) return console::finish_progress(line);
  if (!terminal_) return console::print_line(line);
  const size_t width = static_cast<size_t>(console::columns());
  if (line.size() >= width) line.resize(width - 1);  // a wrapped line could not be rewritten
  console::show_progress(line);
}

void install_stop_handler() {
  struct sigaction action {};
  action.sa_handler = remember_stop;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

bool stop_requested() { return stop_signal != 0; }
void clear_stop_request() { stop_signal = 0; }

}  // namespace cairn
