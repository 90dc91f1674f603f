#include "cairn/cli/memory_session.h"

#include <ATen/Parallel.h>

#include "cairn/core/error.h"
#include "cairn/core/files.h"
#include "cairn/eval/resources.h"

namespace cairn {

void add_session_options(Command* command, SessionOptions* o) {
  command->add_option("MODEL", o->model, "model folder (model.safetensors, config.json, tokenizer)")->required();
  command->add_option("--device", o->device, "cpu or cuda")->one_of({"cpu", "cuda"})->capture_default_str();
  command->add_option("--precision", o->precision, "fp32, bf16 or auto (as the memory file says; else fp32 on a CPU, bf16 on a GPU)")
      ->one_of({"auto", "fp32", "bf16"})
      ->capture_default_str();
  command->add_option("--threads", o->threads, "threads (default: all cores)")->range(1, 4096);
  command->add_option("--segment", o->segment, "tokens of a reading segment (default: by device)")->range(1, int64_t{1} << 24);
}

void add_memory_on(Command* command, std::string* where, bool mapped) {
  std::vector<std::string> places = {"device", "host"};
  if (mapped) places.emplace_back("mapped");
  command
      ->add_option("--memory-on", *where,
                   std::string("on a GPU, where keys and values of the memory lie: device; host: in pinned host memory") +
                       (mapped ? "; mapped: in the mapped file" : "") + " (landmarks are always on the device)")
      ->one_of(places)
      ->capture_default_str();
}

void add_eight_bit(Command* command, std::string* landmark_dtype, std::string* kv_dtype) {
  command
      ->add_option("--landmark-dtype", *landmark_dtype,
                   "numbers of the memory's landmarks: auto (as computed), or int8 with a scale a landmark (half the bytes of bf16)")
      ->one_of({"auto", "int8"})
      ->capture_default_str();
  command
      ->add_option(
          "--kv-dtype", *kv_dtype,
          "numbers of the memory's keys and values: auto (as computed), or int8 with a scale a token and head (half the bytes of bf16)")
      ->one_of({"auto", "int8"})
      ->capture_default_str();
}

OpenedModel open_session(const SessionOptions& options, const std::string& compute, std::shared_ptr<World> world) {
  if (options.threads > 0) at::set_num_threads(options.threads);
  OpenOptions opening;
  opening.folder = options.model;
  opening.device = options.device;
  opening.precision = options.precision == "auto" && !compute.empty() ? compute : options.precision;
  opening.segment = options.segment;
  opening.memory_on = options.memory_on;
  opening.world = std::move(world);
  opening.landmark_dtype = options.landmark_dtype;
  opening.kv_dtype = options.kv_dtype;
  return open_model(opening);
}

MemoryMaker maker_of(const OpenedModel& opened) {
  return memory_maker(opened.header.fingerprint, opened.config, *opened.tokenizer, opened.header.compute);
}

TextMemory load_memory(const MemoryFile& file, const MemoryIndex& index, bool mapped, const OpenedModel& opened) {
  const at::Device device = opened.header.device;
  const KeysOn keys = opened.reader.options().keys;
  const World* const world = opened.reader.world();
  ChunkRange share{0, index.chunks()};
  if (world != nullptr) share = {index.chunks() * world->rank() / world->size(), index.chunks() * (world->rank() + 1) / world->size()};
  const int64_t chunks = share.end - share.begin, element = file.root().element();
  const EightBit eight_bit = opened.reader.options().eight_bit;
  const int64_t all = ChunkMemory::bytes_for(opened.config, 1, chunks, element, eight_bit);
  const auto bytes = [](int64_t n) { return format_bytes(static_cast<double>(n)); };
  if (device.is_cuda()) {
    const int64_t apart = keys == KeysOn::kDevice ? 0 : ChunkMemory::key_bytes_for(opened.config, 1, chunks, element, eight_bit);
    const int64_t gpu = free_memory(device), host = available_memory();
    if (all - apart > gpu || apart > host) {
      throw ResourceError("{}: needs {} of GPU memory, of which {} are free, and {} of pinned host memory, of which {} are free{}",
                          file.path().string(), bytes(all - apart), bytes(gpu), bytes(apart), bytes(host),
                          keys == KeysOn::kDevice ? "; use --memory-on host" : "");
    }
  }
  if (device.is_cpu() && eight_bit.any()) {  // what is 8-bit does not stay in the mapping
    const int64_t kept = ChunkMemory::key_bytes_for(opened.config, 1, chunks, element);
    const int64_t landmarks = ChunkMemory::bytes_for(opened.config, 1, chunks, element) - kept;
    const int64_t need = all - (eight_bit.kv ? 0 : kept) - (eight_bit.landmarks ? 0 : landmarks), have = available_memory();
    if (need > have) {
      throw ResourceError(
          "{}: needs {} of memory as 8-bit rows, of which {} are free; leave out --kv-dtype int8 and --landmark-dtype int8: the "
          "file is then mapped",
          file.path().string(), bytes(need), bytes(have));
    }
  }
  TextMemory text = file.load(index, mapped, device, keys, eight_bit, share);
  text.state->holds_end = world == nullptr || world->rank() + 1 == world->size();
  return text;
}

const MemoryIndex& finished_memory(const MemoryFile& file) {
  if (!file.root().memory)
    throw UserError("{}: its reading is not finished; give `cairn read` the same files again to go on", file.path().string());
  return *file.root().memory;
}

}  // namespace cairn
