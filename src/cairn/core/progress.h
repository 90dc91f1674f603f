// Progress of long work: one line on stderr with rate and remaining time, rewritten on a terminal, printed every few seconds elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace cairn {

class Progress {
 public:
  // `unit`: "tokens", "samples", ... ; total <= 0: unknown.
  Progress(std::string title, int64_t total, std::string unit);
  ~Progress();
  void update(int64_t done, const std::string& note = {});  // cheap; prints at most a few times a second
  void finish(const std::string& note = {});                // prints the last line once
  double seconds() const;                                   // since construction

 private:
  std::string title_, unit_;
  int64_t total_, done_ = 0;
  std::chrono::steady_clock::time_point start_, last_print_;
  bool finished_ = false, terminal_ = false;
  void print(const std::string& note, bool last);
};

// True after SIGINT or SIGTERM once install_stop_handler() was called; long loops look at it at safe points. A second signal ends at once.
void install_stop_handler();
bool stop_requested();
void clear_stop_request();  // tests

}  // namespace cairn
