#include "cairn/cli/memory_session.h"

#include <ATen/Parallel.h>

#include "cairn/core/error.h"

namespace cairn {

void add_session_options(CLI::App* command, SessionOptions* o) {
  command->add_option("MODEL", o->model, "model folder (model.safetensors, config.json, tokenizer)")->required();
  command->add_option("--device", o->device, "cpu or cuda")->check(CLI::IsMember({"cpu", "cuda"}))->capture_default_str();
  command->add_option("--precision", o->precision, "fp32, bf16 or auto (as the memory file says; else fp32 on a CPU, bf16 on a GPU)")
      ->check(CLI::IsMember({"auto", "fp32", "bf16"}))
      ->capture_default_str();
  command->add_option("--threads", o->threads, "threads (default: all cores)")->check(CLI::Range(1, 4096));
  command->add_option("--segment", o->segment, "tokens of a reading segment (default: by device)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 24));
}

OpenedModel open_session(const SessionOptions& options, const std::string& compute) {
  if (options.threads > 0) at::set_num_threads(options.threads);
  OpenOptions opening;
  opening.folder = options.model;
  opening.device = options.device;
  opening.precision = options.precision == "auto" && !compute.empty() ? compute : options.precision;
  opening.segment = options.segment;
  return open_model(opening);
}

MemoryMaker maker_of(const OpenedModel& opened) {
  return memory_maker(opened.header.fingerprint, opened.config, *opened.tokenizer, opened.header.compute);
}

const MemoryIndex& finished_memory(const MemoryFile& file) {
  if (!file.root().memory)
    throw UserError("{}: its reading is not finished; give `cairn read` the same files again to go on", file.path().string());
  return *file.root().memory;
}

}  // namespace cairn
