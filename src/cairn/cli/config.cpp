// cairn config show: the configuration that a run would have, every option with its meaning, range and default.
#include "cairn/train/config.h"

#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "cairn/cli/commands.h"
#include "cairn/core/options.h"

namespace cairn {
namespace {

struct Settings {
  std::string file;
  std::vector<std::string> assignments;
  bool plain = false, json = false;
};

int show(const Settings& settings) {
  TrainConfig config;
  OptionTable table;
  config.declare(table);
  if (!settings.file.empty()) table.load_toml(settings.file);
  for (const std::string& assignment : settings.assignments) table.set(assignment);
  const std::string text = settings.json ? table.to_json() : table.to_toml(!settings.plain);
  std::fwrite(text.data(), 1, text.size(), stdout);
  // The defaults alone name no data, so only a file is held to what fits together.
  if (!settings.file.empty()) config.validate();
  return 0;
}

}  // namespace

void add_config(Command& app, Action* action) {
  Command* command = app.add_subcommand("config", "The options of a training run");
  command->require_subcommand(1);
  Command* shown =
      command->add_subcommand("show", "Every option with its meaning and range; values that are the default are commented out");
  auto settings = std::make_shared<Settings>();
  shown->add_option("FILE", settings->file, "configuration (TOML); without one: the defaults");
  shown->add_option("--set", settings->assignments, "NAME=VALUE, after the file; may be repeated")
      ->allow_extra_args(false)
      ->type_name("NAME=VALUE");
  auto* plain = shown->add_flag("--plain", settings->plain, "only names and values");
  shown->add_flag("--json", settings->json, "as JSON")->excludes(plain);
  shown->callback([settings, action] { *action = [settings] { return show(*settings); }; });
}

}  // namespace cairn
