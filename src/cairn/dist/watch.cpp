#include "cairn/dist/watch.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "cairn/core/error.h"

namespace cairn {
namespace {

using Clock = std::chrono::steady_clock;

constexpr const char* kFailure = "failure";

std::vector<uint8_t> bytes_of(const std::string& text) { return {text.begin(), text.end()}; }

std::string beat_of(int64_t rank) { return fmt::format("beat/{}", rank); }

}  // namespace

PeerWatch::PeerWatch(const Rendezvous& rendezvous, c10::intrusive_ptr<c10d::Store> store, std::function<std::string()> trouble)
    : rendezvous_(rendezvous), store_(std::move(store)), trouble_(std::move(trouble)) {
  store_->set(beat_of(rendezvous_.rank), bytes_of("0"));
}

PeerWatch::~PeerWatch() { stop(); }

void PeerWatch::start() {
  thread_ = std::thread([this] { watch(); });
}

void PeerWatch::stop() {
  stop_ = true;
  if (thread_.joinable()) thread_.join();
}

void PeerWatch::tell_failure() {
  stop();
  try {
    store_->set(kFailure, bytes_of(fmt::format("process {} of {} ended with an error", rendezvous_.rank, rendezvous_.size)));
  } catch (const std::exception&) {  // the store went with the process that failed first
  }
}

void PeerWatch::end(const std::string& message) {
  std::fflush(stdout);
  std::fprintf(stderr, "cairn: process %lld of %lld ends, since %s. Look at that process's output; a training run goes on with --resume\n",
               static_cast<long long>(rendezvous_.rank), static_cast<long long>(rendezvous_.size), message.c_str());
  _exit(kExitUserError);
}

void PeerWatch::watch() {
  const int64_t neighbour = (rendezvous_.rank + 1) % rendezvous_.size;
  const double patience = std::min(kPatienceSeconds, rendezvous_.timeout_seconds);
  std::vector<uint8_t> last;
  Clock::time_point heard = Clock::now();
  for (int64_t beat = 1; !stop_; ++beat) {
    std::string message = trouble_();
    try {
      store_->set(beat_of(rendezvous_.rank), bytes_of(std::to_string(beat)));
      const std::vector<uint8_t> now = store_->get(beat_of(neighbour));
      if (now != last) heard = Clock::now();
      last = now;
      const double silence = std::chrono::duration<double>(Clock::now() - heard).count();
      if (silence > patience && message.empty())
        message = fmt::format("process {} has given no sign of life for {:.0f} s", neighbour, silence);
      if (store_->check({kFailure})) {
        const std::vector<uint8_t> text = store_->get(kFailure);
        message.assign(text.begin(), text.end());
      } else if (!message.empty() && !leaving_) {
        store_->set(kFailure, bytes_of(message));  // not everyone is a neighbour
      }
    } catch (const std::exception&) {
      message = "process 0, or torchrun, is gone";
    }
    if (!message.empty() && !leaving_ && !stop_) end(message);
    const Clock::time_point next = Clock::now() + std::chrono::milliseconds(static_cast<int64_t>(kBeatSeconds * 1000));
    while (!stop_ && Clock::now() < next) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

}  // namespace cairn
