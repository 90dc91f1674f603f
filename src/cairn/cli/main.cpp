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

void add_commands(Command& program, Action* action) {
  add_demo(program, action);
  add_tokenizer(program, action);
  add_shard(program, action);
  add_train(program, action);
  add_read(program, action);
  add_ask(program, action);
  add_generate(program, action);
  add_edit(program, action);
  add_join(program, action);
  add_eval(program, action);
  add_perplexity(program, action);
  add_report(program, action);
  add_inspect(program, action);
  add_check(program, action);
  add_bench(program, action);
  add_config(program, action);
  add_info(program, action);
  add_doctor(program, action);
  add_completion(program, action);
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

int run(int argc, char** argv) {
  Command program("Cairn: language models that train on 4 thousand tokens and read tens of millions.", "cairn");
  program.set_version_flag("--version", "cairn " CAIRN_VERSION " (LibTorch " TORCH_VERSION ")");
  program.require_subcommand(1);
  program.footer("`cairn COMMAND --help` says more about one command.");
  Action action;
  add_commands(program, &action);
  int exit_code = 0;
  if (!parse_command_line(program, argc, argv, &exit_code)) return exit_code;
  CAIRN_CHECK(action != nullptr, "the subcommand has set no action");
  if (const std::string name = given_command(program); !runs_together(name)) {
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
