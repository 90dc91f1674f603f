#include "cairn/cli/command.h"

#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <utility>

namespace cairn {

CommandOption* CommandOption::required() {
  option_->required();
  return this;
}

CommandOption* CommandOption::range(int64_t least, int64_t most) {
  option_->check(CLI::Range(least, most));
  return this;
}

CommandOption* CommandOption::not_negative() {
  option_->check(CLI::NonNegativeNumber);
  return this;
}

CommandOption* CommandOption::one_of(const std::vector<std::string>& choices) {
  option_->check(CLI::IsMember(choices));
  return this;
}

CommandOption* CommandOption::excludes(CommandOption* other) {
  option_->excludes(other->option_);
  return this;
}

CommandOption* CommandOption::allow_extra_args(bool value) {
  option_->allow_extra_args(value);
  return this;
}

CommandOption* CommandOption::delimiter(char separator) {
  option_->delimiter(separator);
  return this;
}

CommandOption* CommandOption::type_name(const std::string& name) {
  option_->type_name(name);
  return this;
}

CommandOption* CommandOption::capture_default_str() {
  option_->capture_default_str();
  return this;
}

Command::Command(const std::string& description, const std::string& name) : app_(std::make_shared<CLI::App>(description, name)) {}

// The other command's CLI::App owns it.
Command::Command(CLI::App* app) : app_(app, [](CLI::App*) {}) {}

Command* Command::add_subcommand(const std::string& name, const std::string& description) {
  return &commands_.emplace_back(app_->add_subcommand(name, description));
}

CommandOption* Command::keep(CLI::Option* option) { return &options_.emplace_back(option); }

CommandOption* Command::add_option(const std::string& names, std::string& value, const std::string& description) {
  return keep(app_->add_option(names, value, description));
}

CommandOption* Command::add_option(const std::string& names, int& value, const std::string& description) {
  return keep(app_->add_option(names, value, description));
}

CommandOption* Command::add_option(const std::string& names, int64_t& value, const std::string& description) {
  return keep(app_->add_option(names, value, description));
}

CommandOption* Command::add_option(const std::string& names, uint64_t& value, const std::string& description) {
  return keep(app_->add_option(names, value, description));
}

CommandOption* Command::add_option(const std::string& names, double& value, const std::string& description) {
  return keep(app_->add_option(names, value, description));
}

CommandOption* Command::add_option(const std::string& names, std::vector<std::string>& value, const std::string& description) {
  CLI::Option* option = app_->add_option(names, value, description);
  option->default_function([&value] { return fmt::format("{}", fmt::join(value, ",")); });
  return keep(option);
}

CommandOption* Command::add_option(const std::string& names, std::vector<int64_t>& value, const std::string& description) {
  CLI::Option* option = app_->add_option(names, value, description);
  option->default_function([&value] { return fmt::format("{}", fmt::join(value, ",")); });
  return keep(option);
}

CommandOption* Command::add_flag(const std::string& names, bool& value, const std::string& description) {
  return keep(app_->add_flag(names, value, description));
}

void Command::set_version_flag(const std::string& names, const std::string& version) { app_->set_version_flag(names, version); }

void Command::require_subcommand(int count) { app_->require_subcommand(count); }

void Command::footer(const std::string& text) { app_->footer(text); }

void Command::callback(std::function<void()> called) { app_->callback(std::move(called)); }

}  // namespace cairn
