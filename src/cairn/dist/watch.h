// Ends this process when another of the run has ended. A collective between GPUs whose peer has died waits for ever, and so does the host
// behind it; so every process shows a sign of life in the store, and looks for that of its neighbour. Private to the room.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "cairn/dist/launch.h"

namespace cairn {

class PeerWatch {
 public:
  static constexpr double kBeatSeconds = 0.5, kPatienceSeconds = 15;

  // store: a client of its own, for the watch's thread alone. The sign of life is there when this returns; watching begins with start(),
  // once all processes have come so far. trouble: what is wrong in this process, or "".
  PeerWatch(const Rendezvous& rendezvous, c10::intrusive_ptr<c10d::Store> store, std::function<std::string()> trouble);
  ~PeerWatch();  // stops watching
  void start();
  void expect_leaving() { leaving_ = true; }  // from here on the others may go
  void tell_failure();                        // stops watching; the others end with a message

 private:
  void watch();
  void stop();
  // A line on stderr, then exit code 2, at once: nothing that was computed behind a broken collective may reach a file.
  [[noreturn]] void end(const std::string& message);

  const Rendezvous rendezvous_;
  c10::intrusive_ptr<c10d::Store> store_;
  std::function<std::string()> trouble_;
  std::atomic<bool> stop_{false}, leaving_{false};
  std::thread thread_;
};

}  // namespace cairn
