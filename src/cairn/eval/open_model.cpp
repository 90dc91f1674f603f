#include "cairn/eval/open_model.h"

#include <ATen/Context.h>

#include "cairn/core/error.h"
#include "cairn/core/files.h"
#include "cairn/core/safetensors.h"
#include "cairn/dist/world.h"
#include "cairn/tasks/task_set.h"

namespace cairn {
namespace {

at::ScalarType parse_precision(const std::string& name, at::Device device) {
  if (name == "auto") return device.is_cuda() ? at::kBFloat16 : at::kFloat;
  if (name != "fp32" && name != "bf16") throw UserError("--precision: '{}' is not one of fp32, bf16, auto", name);
  return name == "bf16" ? at::kBFloat16 : at::kFloat;
}

KeysOn parse_keys(const std::string& name, at::Device device) {
  if (name == "device") return KeysOn::kDevice;
  if (name != "host" && name != "mapped") throw UserError("--memory-on: '{}' is not one of device, host, mapped", name);
  if (!device.is_cuda())
    throw UserError("--memory-on {}: there is no other place than main memory without a GPU; leave it out, or use --device cuda", name);
  return name == "host" ? KeysOn::kHost : KeysOn::kMapped;
}

std::optional<int64_t> stored_training_length(const std::string& folder) {
  const SafetensorsFile file(fs::path(folder) / "model.safetensors");
  const auto found = file.metadata().find("training_length");
  int64_t length = 0;
  if (found != file.metadata().end() && parse_length(found->second, &length) && length > 0) return length;
  return std::nullopt;
}

}  // namespace

at::Device parse_device(const std::string& name) {
  if (name == "cpu") return at::kCPU;
  if (name != "cuda") throw UserError("--device: '{}' is no device; there are cpu and cuda", name);
  if (!at::globalContext().hasCUDA()) {
    throw UserError(
        "--device cuda: this program or this machine has no CUDA; use --device cpu, or build with `make build CUDA=1` where a GPU is");
  }
  return local_gpu();
}

EightBit parse_eight_bit(const std::string& landmark_dtype, const std::string& kv_dtype) {
  for (const auto& [option, name] : {std::pair("--landmark-dtype", landmark_dtype), std::pair("--kv-dtype", kv_dtype)}) {
    if (name != "auto" && name != "int8") throw UserError("{}: '{}' is not one of auto, int8", option, name);
  }
  return {landmark_dtype == "int8", kv_dtype == "int8"};
}

OpenedModel open_model(const OpenOptions& options) {
  const at::Device device = parse_device(options.device);
  ReaderOptions reading;
  reading.compute = parse_precision(options.precision, device);
  reading.segment = options.segment;
  reading.top_k = options.top_k;
  reading.keys = parse_keys(options.memory_on, device);
  reading.eight_bit = parse_eight_bit(options.landmark_dtype, options.kv_dtype);
  if (reading.eight_bit.kv && reading.keys == KeysOn::kMapped) {
    throw UserError(
        "--memory-on mapped: memory files hold no 8-bit keys and values, they are rounded when the memory is opened; use --memory-on host, "
        "or leave --kv-dtype int8 out");
  }
  reading.world = options.several ? World::from_environment(device) : options.world;
  const LoadedModel loaded = load_model(options.folder, device);
  const std::shared_ptr<const Tokenizer> tokenizer = load_tokenizer(loaded.tokenizer_file);
  if (tokenizer->vocab_size() > loaded.config.vocab) {
    throw UserError("{}: the tokenizer has {} tokens, the model {}", options.folder, tokenizer->vocab_size(), loaded.config.vocab);
  }
  EvalHeader header;
  header.model = options.folder;
  header.fingerprint = loaded.fingerprint;
  header.command = command_line();
  header.created = utc_now();
  header.training_length = options.training_length ? options.training_length : stored_training_length(options.folder);
  header.device = device;
  header.compute = reading.compute;
  header.eight_bit = reading.eight_bit;
  const bool own_words = tokenizer->fingerprint() == make_word_pairs_tokenizer()->fingerprint();
  return {loaded.config, tokenizer, Reader(std::make_shared<Model>(loaded.config, loaded.parameters), reading), std::move(header),
          own_words};
}

}  // namespace cairn
