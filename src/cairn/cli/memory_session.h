// What `read`, `ask`, `generate`, `edit` and `join` share: options of the model, and opening it for a memory file.
#pragma once

#include <string>

#include "cairn/cli/commands.h"
#include "cairn/eval/open_model.h"
#include "cairn/infer/memory_file.h"

namespace cairn {

struct SessionOptions {
  std::string model, device = "cpu", precision = "auto";
  int threads = 0;
  int64_t segment = 0;
};

// MODEL (required), --device, --precision, --threads, --segment.
void add_session_options(CLI::App* command, SessionOptions* options);
// compute: precision of a memory file that is used ("fp32", "bf16"), which `auto` takes; empty: none.
OpenedModel open_session(const SessionOptions& options, const std::string& compute = {});
MemoryMaker maker_of(const OpenedModel& opened);
// The finished memory of the file. UserError if its first reading is not finished.
const MemoryIndex& finished_memory(const MemoryFile& file);

}  // namespace cairn
