#include "cairn/cli/together.h"

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <exception>
#include <new>
#include <thread>

#include "cairn/core/error.h"
#include "cairn/core/progress.h"
#include "cairn/dist/process_number.h"
#include "cairn/eval/open_model.h"

namespace cairn {

std::shared_ptr<World> open_world(const std::string& device) {
  if (process_number().size == 1) return nullptr;
  return World::from_environment(parse_device(device));
}

int together(World* world, const std::function<void()>& work) {
  if (world == nullptr) {
    work();
    return 0;
  }
  int64_t code = 0;
  std::string message;
  try {
    work();
  } catch (const Error& error) {
    code = error.exit_code(), message = error.what();
  } catch (const std::bad_alloc&) {
    code = kExitResourceError, message = "out of memory";
  } catch (const std::exception& error) {
    code = 1, message = std::string(error.what()).substr(0, std::string(error.what()).find('\n'));
  }
  const at::Tensor codes = world->all_gather(at::full({1}, code, at::kLong));
  for (int64_t rank = 0; rank < world->size(); ++rank) {
    const auto its = static_cast<int>(codes[rank].item<int64_t>());
    if (its == 0) continue;
    if (rank == world->rank()) std::fprintf(stderr, "cairn: %s\n", message.c_str());
    return its;
  }
  return 0;
}

int lead(const std::function<int()>& work, const std::function<void(int exit_code)>& end) {
  int code = 0;
  try {
    code = work();
  } catch (const Error& error) {
    std::fprintf(stderr, "cairn: %s\n", error.what());
    code = error.exit_code();
  }
  try {
    end(code);
  } catch (const Error&) {  // nobody is there to hear it
  }
  return code;
}

void require_same(World* world, const std::string& text, const std::string& message) {
  if (world == nullptr) return;
  const auto hash = static_cast<int64_t>(std::hash<std::string>{}(text));
  if (!world->all_gather(at::full({1}, hash, at::kLong)).eq(hash).all().item<bool>()) throw UserError("{}", message);
}

std::optional<int> refuse_together(const std::string& command) {
  const ProcessNumber number = process_number();
  if (number.size == 1) return std::nullopt;
  if (number.rank == 0) {
    throw UserError("`cairn {}` is the work of one process, and {} were started together: start it without torchrun, mpirun or srun",
                    command, number.size);
  }
  // Launchers end all processes when the first one ends: who speaks needs a moment.
  std::this_thread::sleep_for(std::chrono::seconds(1));
  return kExitUserError;
}

namespace {

// Kinds of what is told; any number above them: prompts.
constexpr int64_t kStillHere = 0, kEnd = -1;

at::Tensor pair_of(int64_t a, int64_t b) {
  at::Tensor pair = at::zeros({2}, at::kLong);
  pair.data_ptr<int64_t>()[0] = a, pair.data_ptr<int64_t>()[1] = b;
  return pair;
}

}  // namespace

void Talk::tell(const Prompts& prompts) {
  CAIRN_CHECK(!prompts.empty(), "no prompts");
  int64_t ids = 0;
  for (const auto& prompt : prompts) ids += std::ssize(prompt);
  at::Tensor head = pair_of(std::ssize(prompts), ids), all = at::zeros({std::ssize(prompts) + ids}, at::kLong);
  int64_t* to = all.data_ptr<int64_t>();
  for (const auto& prompt : prompts) *to++ = std::ssize(prompt);
  for (const auto& prompt : prompts) to = std::copy(prompt.begin(), prompt.end(), to);
  world_.broadcast(head, 0);
  world_.broadcast(all, 0);
}

void Talk::still_here() {
  at::Tensor head = pair_of(kStillHere, 0);
  world_.broadcast(head, 0);
}

void Talk::end(int exit_code) {
  at::Tensor head = pair_of(kEnd, exit_code);
  world_.broadcast(head, 0);
}

std::optional<Talk::Prompts> Talk::hear(int* exit_code) {
  at::Tensor head = pair_of(0, 0);
  const int64_t* said = head.const_data_ptr<int64_t>();
  do {
    world_.broadcast(head, 0);
  } while (said[0] == kStillHere);
  if (said[0] == kEnd) {
    *exit_code = static_cast<int>(said[1]);
    return std::nullopt;
  }
  at::Tensor all = at::zeros({said[0] + said[1]}, at::kLong);
  world_.broadcast(all, 0);
  const int64_t *length = all.const_data_ptr<int64_t>(), *from = length + said[0];
  Prompts prompts;
  for (int64_t i = 0; i < said[0]; from += length[i++]) prompts.emplace_back(from, from + length[i]);
  return prompts;
}

bool InputLines::next(std::string* line) {
  constexpr int kSecond = 1000;
  for (;;) {
    const size_t end = waiting_.find('\n');
    if (end != std::string::npos || (ended_ && !waiting_.empty())) {
      *line = waiting_.substr(0, end);
      waiting_.erase(0, end == std::string::npos ? end : end + 1);
      return true;
    }
    if (ended_ || stop_requested()) return false;
    pollfd input{STDIN_FILENO, POLLIN, 0};
    const int ready = poll(&input, 1, idle_ ? kSecond : -1);
    if (ready == 0) idle_();
    if (ready <= 0) continue;  // a second has gone by, or a signal came
    char bytes[4096];
    const ssize_t got = read(STDIN_FILENO, bytes, sizeof(bytes));
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got <= 0) {
      ended_ = true;
    } else {
      waiting_.append(bytes, static_cast<size_t>(got));
    }
  }
}

}  // namespace cairn
