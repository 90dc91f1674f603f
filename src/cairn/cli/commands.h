// Every subcommand is one file in this folder with one add_* function: it declares the subcommand's options on the CLI11 app and sets
// `action`, which main() runs after parsing; the action's result is the exit code. Errors are thrown (core/error.h); main() prints them and
// maps exit codes.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace cairn {

using Action = std::function<int()>;

inline constexpr int kExitStopped = 130;  // the exit code of work that Ctrl-C ended, as a shell reports SIGINT

void add_config(CLI::App& app, Action* action);     // config show: effective configuration, annotated
void add_doctor(CLI::App& app, Action* action);     // what this machine is and whether Cairn can work on it
void add_info(CLI::App& app, Action* action);       // what a file or folder is: checkpoint, shard, tokenizer, run
void add_check(CLI::App& app, Action* action);      // operators against references; --oracle DIR
void add_bench(CLI::App& app, Action* action);      // bench ops | bench read
void add_tokenizer(CLI::App& app, Action* action);  // tokenizer train | encode | decode
void add_shard(CLI::App& app, Action* action);      // text files -> token shard
void add_read(CLI::App& app, Action* action);       // text files -> memory file
void add_ask(CLI::App& app, Action* action);        // questions about a memory, answers with their chunks
void add_generate(CLI::App& app, Action* action);   // text behind a prompt
void add_edit(CLI::App& app, Action* action);       // overwrite, insert, delete in a memory
void add_join(CLI::App& app, Action* action);       // memories -> one memory
void add_train(CLI::App& app, Action* action);
void add_eval(CLI::App& app, Action* action);
void add_perplexity(CLI::App& app, Action* action);  // loss of the same tokens behind short and long contexts
void add_report(CLI::App& app, Action* action);
void add_demo(CLI::App& app, Action* action);
void add_inspect(CLI::App& app, Action* action);     // answers of `cairn ask` -> page
void add_completion(CLI::App& app, Action* action);  // completion bash | zsh | fish

}  // namespace cairn
