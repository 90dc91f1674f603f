// Commands and their options, on top of CLI11, whose names the functions here have. CLI11 is a header of thousands of lines of templates:
// included in every file that declares options it took a fifth of the whole build. So it is seen by command.cpp, command_line.cpp and
// completion.cpp only.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <vector>

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace cairn {

// An option, flag or positional argument that was declared. Each function changes it and returns it.
class CommandOption {
 public:
  explicit CommandOption(CLI::Option* option) : option_(option) {}

  CommandOption* required();
  CommandOption* range(int64_t least, int64_t most);  // the value, or each of several; both ends included
  CommandOption* not_negative();
  CommandOption* one_of(const std::vector<std::string>& choices);
  CommandOption* excludes(CommandOption* other);      // not both
  CommandOption* allow_extra_args(bool value);        // false: one value each time the option is given
  CommandOption* delimiter(char separator);           // between several values in one word
  CommandOption* type_name(const std::string& name);  // in the help
  CommandOption* capture_default_str();               // the help shows the present value

 private:
  CLI::Option* option_;
};

// The program (`cairn`), a command (`cairn bench`) or a command's command (`cairn bench ops`). Owns what it returns.
class Command {
 public:
  Command(const std::string& description, const std::string& name);  // the program
  explicit Command(CLI::App* app);                                   // a command of another
  Command(const Command&) = delete;
  Command& operator=(const Command&) = delete;

  Command* add_subcommand(const std::string& name, const std::string& description);

  // names: "-o,--output", or "MODEL" for a positional argument. `value` is set while the command line is parsed; it must live until then.
  CommandOption* add_option(const std::string& names, std::string& value, const std::string& description);
  CommandOption* add_option(const std::string& names, int& value, const std::string& description);
  CommandOption* add_option(const std::string& names, int64_t& value, const std::string& description);
  CommandOption* add_option(const std::string& names, uint64_t& value, const std::string& description);
  CommandOption* add_option(const std::string& names, double& value, const std::string& description);
  CommandOption* add_option(const std::string& names, std::vector<std::string>& value, const std::string& description);
  CommandOption* add_option(const std::string& names, std::vector<int64_t>& value, const std::string& description);
  CommandOption* add_flag(const std::string& names, bool& value, const std::string& description);
  void set_version_flag(const std::string& names, const std::string& version);

  void require_subcommand(int count);
  void footer(const std::string& text);         // below the help
  void callback(std::function<void()> called);  // once the command line was parsed, if the command is in it

  CLI::App& app() const { return *app_; }

 private:
  CommandOption* keep(CLI::Option* option);

  std::shared_ptr<CLI::App> app_;
  std::list<CommandOption> options_;
  std::list<Command> commands_;
};

}  // namespace cairn
