// The configuration of a training run as TOML, and a model's config.json (inputs that begin with '{'). What is accepted keeps its ranges,
// and `config.toml` and `config.json` of a run folder read back as the same.
#include "cairn/train/config.h"
#include "fuzz/fuzz.h"

namespace cairn::fuzz {
namespace {

void check_ranges(const OptionTable& table) {
  for (const OptionTable::Option& option : table.options()) {
    auto check = [&](double value) { CAIRN_CHECK(value >= option.low && value <= option.high, "{} = {}", option.name, value); };
    if (auto* const* number = std::get_if<double*>(&option.target)) check(**number);
    if (auto* const* number = std::get_if<int64_t*>(&option.target)) check(static_cast<double>(**number));
    if (auto* const* list = std::get_if<std::vector<double>*>(&option.target))
      for (const double value : **list) check(value);
  }
}

void read_toml(std::string_view text) {
  TrainConfig config;
  OptionTable table;
  config.declare(table);
  try {
    table.load_toml_text(text, "input");
  } catch (const UserError&) {
    return;
  }
  check_ranges(table);
  const std::string written = table.to_toml(false);
  TrainConfig again;
  OptionTable second;
  again.declare(second);
  second.load_toml_text(written, "what was written");
  CAIRN_CHECK(second.to_toml(false) == written, "{}", written);
  table.to_toml(true);
  try {
    config.validate();
  } catch (const UserError&) {
    return;
  }
  config.gate_tasks();
  for (const Phase& phase : config.phases()) CAIRN_CHECK(phase.length >= 1 && phase.length <= config.longest() && phase.top_k >= 1);
  config.model.mlp();
  config.model.upper_reach();
  config.model.lower_reach();
  ++accepted;
}

void read_json(std::string_view text) {
  try {
    const ModelConfig config = ModelConfig::from_json(text, "input");
    const std::string written = config.to_json();
    CAIRN_CHECK(ModelConfig::from_json(written, "what was written").to_json() == written, "{}", written);
    config.upper_reach();
    ++accepted;
  } catch (const UserError&) {
  }
}

}  // namespace

std::vector<std::string> seeds() {
  TrainConfig config;
  OptionTable table;
  config.declare(table);
  return {table.to_toml(false), config.model.to_json(),
          "[model]\nvocab = 4096\nupper = [\"memory+window\", \"memory-mlp-retrieval\"]\nalpha = 0.5\n\n[train]\nphases = [\"1K:all:0.5\", "
          "\"2048:8:1\"]\ntokens = \"128M\"\nlr = 1e-3\ngates = [0.1, 0.2]\ngate_tasks = [\"single_needle\"]\n\n[tasks]\nmix = "
          "[\"text:0.5\", \"single_needle:0.5\"]\n",
          "data.train = ['a.shard', \"\\u00e9\"]\ntrain = { seed = 0x7f, lr = 1_0.0e-3 }\nmodel.landmark = \"\"\"mean\"\"\"\n",
          "{\"vocab\": 257, \"d_model\": 64, \"upper\": [\"memory\"], \"rope_theta\": 1e4}"};
}

std::vector<std::string> words() {
  std::vector<std::string> list = {"[",
                                   "]",
                                   "{",
                                   "}",
                                   "\"",
                                   "'''",
                                   "\"\"\"",
                                   "=",
                                   ".",
                                   "[[",
                                   "inf",
                                   "-inf",
                                   "nan",
                                   "true",
                                   "0x7f",
                                   "0o17",
                                   "1e308",
                                   "1979-05-27",
                                   "\"4K\"",
                                   "9223372036854775807",
                                   "\\u0000",
                                   "\xC3\xA9",
                                   "\xE3\x81\x97",
                                   "\xEF\xB3\xBF",
                                   "\xff",
                                   "# ",
                                   "\r\n",
                                   "all",
                                   "memory+window-mlp-retrieval",
                                   "1024:all:0.55"};
  TrainConfig config;
  OptionTable table;
  config.declare(table);
  for (const auto& option : table.options()) list.push_back(option.name + " = ");
  return list;
}

}  // namespace cairn::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  text.starts_with('{') ? cairn::fuzz::read_json(text) : cairn::fuzz::read_toml(text);
  return 0;
}
