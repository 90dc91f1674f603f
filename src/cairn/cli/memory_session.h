// What `read`, `ask`, `generate`, `edit` and `join` share: options of the model, and opening it for a memory file.
#pragma once

#include <memory>
#include <string>

#include "cairn/cli/commands.h"
#include "cairn/eval/open_model.h"
#include "cairn/infer/memory_file.h"

namespace cairn {

struct SessionOptions {
  std::string model, device = "cpu", precision = "auto", memory_on = "device", landmark_dtype = "auto", kv_dtype = "auto";
  int threads = 0;
  int64_t segment = 0;
};

// MODEL (required), --device, --precision, --threads, --segment.
void add_session_options(Command* command, SessionOptions* options);
// --memory-on; mapped: also in a memory file's mapping.
void add_memory_on(Command* command, std::string* where, bool mapped);
// --landmark-dtype, --kv-dtype.
void add_eight_bit(Command* command, std::string* landmark_dtype, std::string* kv_dtype);
// compute: precision of a memory file that is used ("fp32", "bf16"), which `auto` takes; empty: none.
// world: the processes that share the memory; null: this one alone.
OpenedModel open_session(const SessionOptions& options, const std::string& compute = {}, std::shared_ptr<World> world = nullptr);
MemoryMaker maker_of(const OpenedModel& opened);
// Loads the memory as --memory-on, --landmark-dtype and --kv-dtype say, or this process's share of it. ResourceError with the bytes of GPU
// and host, before anything is loaded, if it does not fit.
TextMemory load_memory(const MemoryFile& file, const MemoryIndex& index, bool mapped, const OpenedModel& opened);
// The finished memory of the file. UserError if its first reading is not finished.
const MemoryIndex& finished_memory(const MemoryFile& file);

}  // namespace cairn
