#include "cairn/core/error.h"
#include "cairn/core/safetensors.h"
#include "cairn/model/model.h"

namespace cairn {

LoadedModel load_model(const fs::path& folder, at::Device device) {
  if (!fs::is_directory(folder))
    throw UserError("{}: no such folder; a model is a folder with model.safetensors and config.json", folder.string());
  for (const char* name : {"config.json", "model.safetensors"}) {
    if (!fs::exists(folder / name))
      throw UserError("{}: has no {}; a model is a folder with model.safetensors and config.json", folder.string(), name);
  }
  LoadedModel loaded;
  const std::string config_text = read_file(folder / "config.json", 1 << 20);
  loaded.config = ModelConfig::from_json(config_text, (folder / "config.json").string());
  loaded.parameters = std::make_shared<Parameters>(loaded.config, device);
  load_weights(folder / "model.safetensors", *loaded.parameters);
  const MappedFile weights(folder / "model.safetensors");
  const std::string_view bytes(reinterpret_cast<const char*>(weights.bytes().data()), weights.bytes().size());
  loaded.fingerprint = hash_hex(loaded.config.to_json() + hash_hex(bytes));
  loaded.tokenizer_file = fs::exists(folder / "tokenizer.model") ? (folder / "tokenizer.model").string() : "bytes";
  return loaded;
}

}  // namespace cairn
