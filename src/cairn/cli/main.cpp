// The program: one subcommand a file (commands.h). This file parses, runs the chosen action and turns every error into one line and an exit
// code.
#include <c10/util/Exception.h>
#include <torch/headeronly/version.h>

#include <cstdio>
#include <exception>
#include <new>
#include <set>
#include <string>

#include "cairn/cli/command_line.h"
#include "cairn/cli/commands.h"
#include "cairn/cli/together.h"
#include "cairn/core/error.h"
#include "cairn/core/files.h"

namespace cairn {
namespace {

void add_commands(CLI::App& app, Action* action) {
  add_demo(app, action);
  add_tokenizer(app, action);
  add_shard(app, action);
  add_train(app, action);
  add_read(app, action);
  add_ask(app, action);
  add_generate(app, action);
  add_edit(app, action);
  add_join(app, action);
  add_eval(app, action);
  add_perplexity(app, action);
  add_report(app, action);
  add_inspect(app, action);
  add_check(app, action);
  add_bench(app, action);
  add_config(app, action);
  add_info(app, action);
  add_doctor(app, action);
  add_completion(app, action);
}

int fail(const std::string& message, int code) {
  std::fflush(stdout);
  std::fprintf(stderr, "cairn: %s\n", message.c_str());
  return code;
}

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

// Torch says that memory is missing in ordinary errors, too.
bool is_out_of_memory(const std::string& message) {
  return message.find("out of memory") != std::string::npos || message.find("can't allocate memory") != std::string::npos;
}

// Whether several processes that were started together may run the command: those that share the work, and those that only tell something.
bool runs_together(const std::string& command) {
  static const std::set<std::string> those = {"train",       "read",       "ask",          "generate", "eval",
                                              "bench train", "bench read", "bench memory", "info",     "doctor"};
  return those.count(command) > 0 || command.starts_with("config") || command.starts_with("completion");
}

// "bench read": the words of the subcommand that was given.
std::string name_of(const CLI::App& app) {
  std::string name;
  for (const CLI::App* at = &app; !at->get_subcommands().empty();) {
    at = at->get_subcommands().front();
    name += (name.empty() ? "" : " ") + at->get_name();
  }
  return name;
}

int run(int argc, char** argv) {
  CLI::App app("Cairn: language models that train on 4 thousand tokens and read tens of millions.", "cairn");
  app.set_version_flag("--version", "cairn " CAIRN_VERSION " (LibTorch " TORCH_VERSION ")");
  app.require_subcommand(1);
  app.footer("`cairn COMMAND --help` says more about one command.");
  Action action;
  add_commands(app, &action);
  int exit_code = 0;
  if (!parse_command_line(app, argc, argv, &exit_code)) return exit_code;
  CAIRN_CHECK(action != nullptr, "the subcommand has set no action");
  if (const std::string name = name_of(app); !runs_together(name)) {
    if (const auto code = refuse_together(name)) return *code;
  }
  return action();
}

int run_guarded(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const Error& error) {
    return fail(error.what(), error.exit_code());
  } catch (const std::bad_alloc&) {
    return fail("out of memory; use a smaller model, batch or length", kExitResourceError);
  } catch (const c10::Error& error) {
    const std::string message = first_line(error.what_without_backtrace());
    return fail(message, is_out_of_memory(message) ? kExitResourceError : 1);
  } catch (const std::exception& error) {
    const std::string message = first_line(error.what());
    return fail(message, is_out_of_memory(message) ? kExitResourceError : 1);
  }
}

}  // namespace
}  // namespace cairn

int main(int argc, char** argv) {
  cairn::install_sigbus_handler();
  int code = cairn::run_guarded(argc, argv);
  // Results that did not reach their reader are not success.
  if ((std::fflush(stdout) != 0 || std::ferror(stdout)) && code == 0) code = cairn::fail("cannot write to standard output", 1);
  return code;
}
