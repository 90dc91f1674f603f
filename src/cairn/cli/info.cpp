// cairn info PATH: what a file or folder is and what is in it: checkpoint, run, weights, token shard, memory, tokenizer.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cairn/cli/commands.h"
#include "cairn/cli/table.h"
#include "cairn/core/error.h"
#include "cairn/core/files.h"
#include "cairn/core/json.h"
#include "cairn/core/safetensors.h"
#include "cairn/infer/memory_file.h"
#include "cairn/model/config.h"
#include "cairn/model/parameters.h"
#include "cairn/text/shards.h"
#include "cairn/text/tokenizer.h"

namespace cairn {
namespace {

constexpr size_t kShownTensors = 40;
constexpr int64_t kMaxTokenizerBytes = int64_t{1} << 28, kMaxStateBytes = int64_t{1} << 24;
constexpr const char* kMetrics = "metrics.jsonl";

struct Settings {
  std::string path;
  bool tensors = false, verify = false;
};

std::string shape_text(const std::vector<int64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

int64_t numbers_of(const TensorInfo& info) { return (info.end - info.begin) / dtype_size(info.dtype); }

std::string bytes_of(const fs::path& file) { return format_bytes(static_cast<double>(fs::file_size(file))); }

// "12.3 M numbers in 40 tensors (F32 36, BF16 4), 49.2 MB"
std::string summary(const SafetensorsFile& file) {
  int64_t numbers = 0;
  std::map<std::string, int64_t> dtypes;
  for (const auto& [name, info] : file.tensors()) {
    numbers += numbers_of(info);
    ++dtypes[std::string(dtype_name(info.dtype))];
  }
  std::string kinds;
  for (const auto& [dtype, count] : dtypes) kinds += (kinds.empty() ? "" : ", ") + fmt::format("{} {}", dtype, count);
  return fmt::format("{} numbers in {} tensors{}, {}", numbers, file.tensors().size(), kinds.empty() ? "" : " (" + kinds + ")",
                     bytes_of(file.path()));
}

void print_tensors(const SafetensorsFile& file, bool all) {
  Table table;
  size_t shown = 0;
  for (const auto& [name, info] : file.tensors()) {
    if (!all && shown == kShownTensors) break;
    table.row("  " + name, fmt::format("{} {}", dtype_name(info.dtype), shape_text(info.shape)));
    ++shown;
  }
  table.print();
  if (shown < file.tensors().size()) fmt::print("  and {} more (--tensors shows all)\n", file.tensors().size() - shown);
}

void info_weights(const fs::path& path, const Settings& settings) {
  const SafetensorsFile file(path);
  Table table;
  table.row("weights", path.string());
  table.row("content", summary(file));
  for (const auto& [key, value] : file.metadata()) table.row("metadata " + key, value);
  table.print();
  print_tensors(file, settings.tensors);
}

void info_shard(const fs::path& path, const Settings& settings) {
  const TokenShard shard(path);
  Table table;
  table.row("token shard", path.string());
  table.row("tokens", fmt::format("{} in {} documents, {}", shard.tokens(), shard.documents(), bytes_of(path)));
  table.row("tokenizer", "fingerprint " + shard.tokenizer_fingerprint());
  if (settings.verify) {
    shard.verify();
    table.row("checksum", "agrees");
  }
  table.print();
}

void info_memory(const fs::path& path, const Settings& settings) {
  const MemoryFile file = MemoryFile::open(path, /*writable=*/false);
  const MemoryRoot& root = file.root();
  Table table;
  table.row("memory", path.string());
  if (root.memory) {
    table.row("text", fmt::format("{} tokens in {} documents, {} chunks of {}, {} pages", root.memory->tokens,
                                  root.memory->documents.size(), root.memory->chunks(), root.model.chunk, root.memory->pages.size()));
    for (size_t i = 0; i < std::min<size_t>(root.memory->documents.size(), 8); ++i)
      table.row(fmt::format("document {}", i),
                fmt::format("{} from token {}", root.memory->documents[i].name, root.memory->documents[i].token));
  }
  if (root.reading) {
    table.row("reading",
              fmt::format("not finished: {} tokens so far; `cairn read` with the same files goes on", root.reading->memory.tokens));
    for (const auto& source : root.reading->sources) table.row("", source.path);
  }
  table.row("numbers", fmt::format("{}, {} in all, {} used", root.compute, format_bytes(static_cast<double>(file.extents().file_bytes())),
                                   format_bytes(static_cast<double>(file.extents().used_bytes()))));
  table.row("model",
            fmt::format("fingerprint {}, {:.2f} M parameters", root.fingerprint, static_cast<double>(root.model.parameter_count()) / 1e6));
  table.row("tokenizer", fmt::format("{}, fingerprint {}", root.tokenizer_kind, root.tokenizer_fingerprint));
  if (settings.verify) {
    file.verify();
    table.row("checksums", "agree");
  }
  table.print();
}

std::string tokenizer_text(const Tokenizer& tokenizer) {
  return fmt::format("{}, {} ids, fingerprint {}", tokenizer.kind(), tokenizer.vocab_size(), tokenizer.fingerprint());
}

void info_tokenizer(const fs::path& path) {
  const auto tokenizer = parse_tokenizer(read_file(path, kMaxTokenizerBytes), path.string());
  Table table;
  table.row("tokenizer", path.string());
  table.row("kind", tokenizer_text(*tokenizer));
  table.print();
}

void add_model_rows(const ModelConfig& config, Table& table) {
  table.row("parameters", fmt::format("{:.2f} M", static_cast<double>(config.parameter_count()) / 1e6));
  table.row("width", fmt::format("d {}, {} heads ({} of keys and values) of {}, MLP {}, vocabulary {}", config.d_model, config.heads,
                                 config.kv_heads, config.head_dim, config.mlp(), config.vocab));
  table.row("lower half",
            fmt::format("{} layers with a window of {}: reach {} tokens", config.lower_layers, config.window, config.lower_reach()));
  table.row("midpoint", fmt::format("chunks of {}, {} encoder layers, landmark {}", config.chunk, config.encoder_layers, config.landmark));
  table.row("upper half", fmt::format("{}: reach {} tokens beside the memory", fmt::join(config.upper, ", "), config.upper_reach()));
  table.row("memory", fmt::format("{} heads ({} of keys and values), top {} chunks by {} of {}, {} weights", config.memory_heads,
                                  config.memory_kv_heads, config.top_k, config.retrieval_heads, config.retrieval_dim, config.weights));
}

// The names and shapes that the configuration asks for must be the ones in the file.
void check_tensors(const ModelConfig& config, const SafetensorsFile& file) {
  const auto layout = Parameters::layout(config);
  for (const ParameterInfo& wanted : layout) {
    const TensorInfo& found = file.info(wanted.name);
    if (found.shape != wanted.shape) {
      throw UserError("{}: tensor '{}' has shape {}, but config.json asks for {}", file.path().string(), wanted.name,
                      shape_text(found.shape), shape_text(wanted.shape));
    }
  }
  for (const auto& [name, info] : file.tensors()) {
    if (std::none_of(layout.begin(), layout.end(), [&](const ParameterInfo& wanted) { return wanted.name == name; })) {
      throw UserError("{}: tensor '{}' belongs to no parameter of config.json", file.path().string(), name);
    }
  }
}

void add_state_row(const fs::path& file, Table& table) {
  const nlohmann::json state = parse_json(read_file(file, kMaxStateBytes), file.string());
  const auto number = [&](const char* key) {
    const auto found = state.is_object() ? state.find(key) : state.end();
    if (found == state.end() || !found->is_number()) throw UserError("{}: '{}' is missing or no number", file.string(), key);
    return found->get<double>();
  };
  table.row("trained",
            fmt::format("{:.0f} steps, {:.2f} M tokens, {}", number("step"), number("tokens") / 1e6, format_duration(number("seconds"))));
}

void info_checkpoint(const fs::path& folder, const Settings& settings) {
  for (const char* name : {"config.json", "model.safetensors"}) {
    if (!fs::exists(folder / name))
      throw UserError("{}: has no {}; a checkpoint is a folder with model.safetensors and config.json", folder.string(), name);
  }
  const ModelConfig config = ModelConfig::from_json(read_file(folder / "config.json", 1 << 20), (folder / "config.json").string());
  const SafetensorsFile weights(folder / "model.safetensors");
  check_tensors(config, weights);
  Table table;
  table.row("checkpoint", folder.string());
  add_model_rows(config, table);
  table.row("weights", summary(weights));
  const fs::path tokenizer_file = folder / "tokenizer.model";
  if (fs::exists(tokenizer_file)) {
    table.row("tokenizer", tokenizer_text(*parse_tokenizer(read_file(tokenizer_file, kMaxTokenizerBytes), tokenizer_file.string())));
  } else {
    table.row("tokenizer", "bytes (no tokenizer.model here)");
  }
  if (fs::exists(folder / "state.json")) add_state_row(folder / "state.json", table);
  table.print();
  if (settings.tensors) print_tensors(weights, true);
}

void info_run(const fs::path& folder, const Settings& settings) {
  Table table;
  table.row("run", folder.string());
  std::vector<std::string> checkpoints;
  if (fs::is_directory(folder / "checkpoints")) {
    for (const auto& entry : fs::directory_iterator(folder / "checkpoints")) {
      const std::string name = entry.path().filename().string();
      if (entry.is_directory() && name.starts_with("step-")) checkpoints.push_back(name);
    }
  }
  std::sort(checkpoints.begin(), checkpoints.end());
  table.row("checkpoints", checkpoints.empty() ? "none yet" : fmt::format("{}", fmt::join(checkpoints, ", ")));
  if (fs::exists(folder / kMetrics)) table.row("metrics", bytes_of(folder / kMetrics));
  if (fs::exists(folder / "config.toml")) table.row("configuration", (folder / "config.toml").string());
  table.print();
  if (checkpoints.empty()) return;
  fmt::print("\n");
  info_checkpoint(folder / "checkpoints" / checkpoints.back(), settings);
}

// The first bytes of a file, as many as there are.
std::string head_of(const fs::path& path) {
  const MappedFile file(path);
  const auto bytes = file.bytes().first(std::min<size_t>(16, file.bytes().size()));
  return {bytes.begin(), bytes.end()};
}

int info(const Settings& settings) {
  const fs::path path = settings.path;
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) throw UserError("{}: no such file or folder", path.string());
  if (fs::is_directory(status)) {
    if (fs::exists(path / "model.safetensors") || fs::exists(path / "config.json")) {
      info_checkpoint(path, settings);
    } else if (fs::exists(path / "checkpoints") || fs::exists(path / kMetrics) || fs::exists(path / "config.toml")) {
      info_run(path, settings);
    } else {
      throw UserError("{}: neither a checkpoint (model.safetensors, config.json) nor a run (config.toml, {}, checkpoints/)", path.string(),
                      kMetrics);
    }
    return 0;
  }
  // Names first: a broken file then gets the message of its own kind.
  const std::string head = head_of(path), extension = path.extension().string();
  if (head.empty()) throw UserError("{}: the file is empty", path.string());
  if (extension == ".safetensors" || (head.size() > 8 && head[8] == '{' && head[7] == 0 && head[6] == 0)) {
    info_weights(path, settings);
  } else if (extension == ".memory" || head.starts_with("CAIRNMEM")) {
    info_memory(path, settings);
  } else if (extension == ".shard" || head.starts_with("CAIRNTOK")) {
    info_shard(path, settings);
  } else {
    try {
      info_tokenizer(path);
    } catch (const UserError& reason) {
      if (extension == ".model") throw;
      throw UserError("{}: neither weights (.safetensors) nor a token shard (.shard); and as a tokenizer: {}", path.string(),
                      reason.what());
    }
  }
  return 0;
}

}  // namespace

void add_info(Command& app, Action* action) {
  Command* command = app.add_subcommand("info", "What a file or folder is: checkpoint, run, weights, token shard, memory, tokenizer");
  auto settings = std::make_shared<Settings>();
  command->add_option("PATH", settings->path, "file or folder")->required();
  command->add_flag("--tensors", settings->tensors, "list all tensors");
  command->add_flag("--verify", settings->verify, "read a shard or memory whole and compare its checksums");
  command->callback([settings, action] { *action = [settings] { return info(*settings); }; });
}

}  // namespace cairn
