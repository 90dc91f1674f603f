// Every subcommand is one file in this folder with one add_* function: it declares the subcommand and its options on `app`, the program,
// and sets `action`, which main() runs after parsing; the action's result is the exit code. Errors are thrown (core/error.h); main() prints
// them and maps exit codes.
#pragma once

#include <functional>

#include "cairn/cli/command.h"

namespace cairn {

using Action = std::function<int()>;

inline constexpr int kExitStopped = 130;  // the exit code of work that Ctrl-C ended, as a shell reports SIGINT

void add_config(Command& app, Action* action);     // config show: effective configuration, annotated
void add_doctor(Command& app, Action* action);     // what this machine is and whether Cairn can work on it
void add_info(Command& app, Action* action);       // what a file or folder is: checkpoint, shard, tokenizer, run
void add_check(Command& app, Action* action);      // operators against references; --oracle DIR
void add_bench(Command& app, Action* action);      // bench ops | bench read
void add_tokenizer(Command& app, Action* action);  // tokenizer train | encode | decode
void add_shard(Command& app, Action* action);      // text files -> token shard
void add_read(Command& app, Action* action);       // text files -> memory file
void add_ask(Command& app, Action* action);        // questions about a memory, answers with their chunks
void add_generate(Command& app, Action* action);   // text behind a prompt
void add_edit(Command& app, Action* action);       // overwrite, insert, delete in a memory
void add_join(Command& app, Action* action);       // memories -> one memory
void add_train(Command& app, Action* action);
void add_eval(Command& app, Action* action);
void add_perplexity(Command& app, Action* action);  // loss of the same tokens behind short and long contexts
void add_report(Command& app, Action* action);
void add_demo(Command& app, Action* action);
void add_inspect(Command& app, Action* action);     // answers of `cairn ask` -> page
void add_completion(Command& app, Action* action);  // completion bash | zsh | fish

}  // namespace cairn
