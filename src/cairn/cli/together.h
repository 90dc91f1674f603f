// Commands that several processes run together (docs/several-gpus.md): process 0 reads the terminal and prints, the others do the same
// work.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cairn/dist/world.h"

namespace cairn {

// The processes that were started together, connected; null if this one is alone. device: as in --device. UserError as of World.
std::shared_ptr<World> open_world(const std::string& device);
inline bool is_first(const World* world) { return world == nullptr || world->rank() == 0; }

// Runs `work`, which has no collectives that an error could leave half done, in every process. If it throws in any, the first of those
// prints why, and all return that exit code; else 0. Alone, what it throws is thrown.
int together(World* world, const std::function<void()>& work);

// Of process 0, which the others follow: runs `work`, whose exit code is returned. If it throws an Error, between two steps of the others
// or because they are gone, that is printed, and its exit code returned. Then the others are told it by `end`, if they are there to hear
// it.
int lead(const std::function<int()>& work, const std::function<void(int exit_code)>& end);

// UserError with `message` in all processes unless `text` is the same in all; for together(). Alone nothing.
void require_same(World* world, const std::string& text, const std::string& message);

// For a command that is the work of one process: the exit code if this process was started with others (process 0 says so), else nothing.
std::optional<int> refuse_together(const std::string& command);

// What process 0 tells the others while it talks. One call of tell(), still_here() or end() there for each hear() here.
class Talk {
 public:
  using Prompts = std::vector<std::vector<int32_t>>;
  explicit Talk(World& world) : world_(world) {}
  void tell(const Prompts& prompts);  // at least one prompt, none empty
  void still_here();                  // nobody waits longer than a collective may take: said every second by who waits for a person
  void end(int exit_code);
  // Of the others: the next prompts, or nothing and the exit code.
  std::optional<Prompts> hear(int* exit_code);

 private:
  World& world_;
};

// Lines of standard input, and something to do every second while none comes.
class InputLines {
 public:
  explicit InputLines(std::function<void()> idle = {}) : idle_(std::move(idle)) {}
  // False at the end, and when a signal asked to stop. The last line may lack its line end.
  bool next(std::string* line);

 private:
  std::function<void()> idle_;
  std::string waiting_;
  bool ended_ = false;
};

}  // namespace cairn
