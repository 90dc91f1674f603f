// cairn edit MODEL NAME.memory: overwrite, insert or delete tokens; cairn join MODEL A.memory B.memory -o C.memory.
#include "cairn/infer/edit.h"

#include <fmt/format.h>

#include <chrono>
#include <memory>
#include <numeric>

#include "cairn/cli/memory_session.h"
#include "cairn/core/error.h"
#include "cairn/infer/text_view.h"

namespace cairn {
namespace {

struct EditOptions {
  SessionOptions session;
  std::string memory, text;
  int64_t at = 0, count = 0;
  bool insert = false, show = false;
};

int run_edit(const EditOptions& o) {
  MemoryFile file = MemoryFile::open(o.memory, /*writable=*/!o.show);
  const MemoryIndex index = finished_memory(file);
  OpenedModel opened = open_session(o.session, file.root().compute);
  file.require_maker(maker_of(opened));
  TextMemory text = file.load(index, /*mapped=*/true, opened.header.device);
  const TextView view(text, *opened.tokenizer);
  const int64_t size = text.tokens.size();
  if (o.show) {
    if (o.at > size) throw UserError("token {} is outside of the text of {} tokens", o.at, size);
    fmt::print("{}\n", view.text(o.at, std::min(size, o.at + std::max<int64_t>(o.count, 64))));
    return 0;
  }
  const bool deletes = o.count > 0;
  if (deletes == !o.text.empty()) throw UserError("give either --text (to write or --insert) or --delete COUNT");
  const auto begin = std::chrono::steady_clock::now();
  std::vector<int32_t> ids;
  if (!deletes) ids = opened.tokenizer->encode(o.text);
  const ChunkChange change = deletes    ? delete_tokens(opened.reader, text, o.at, o.count)
                             : o.insert ? insert_tokens(opened.reader, text, o.at, ids)
                                        : overwrite_tokens(opened.reader, text, o.at, ids);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  commit_change(file, text, change);
  const double all = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  fmt::print("{}: {} tokens; {} chunks encoded again in {:.1f} ms, in the file after {:.1f} ms\n", o.memory, text.tokens.size(),
             change.added, 1e3 * seconds, 1e3 * all);
  return 0;
}

struct JoinOptions {
  SessionOptions session;
  std::vector<std::string> memories;
  std::string output;
  bool force = false;
};

int run_join(const JoinOptions& o) {
  if (o.memories.size() < 2) throw UserError("join needs at least two memories");
  if (fs::exists(o.output) && !o.force) throw UserError("{} exists; --force replaces it", o.output);
  std::vector<MemoryFile> files;
  for (const std::string& path : o.memories) {
    if (fs::exists(o.output) && fs::exists(path) && fs::equivalent(path, o.output)) throw UserError("{}: is also the output", path);
    files.push_back(MemoryFile::open(path, /*writable=*/false));
  }
  OpenedModel opened = open_session(o.session, files[0].root().compute);
  for (const MemoryFile& file : files) file.require_maker(maker_of(opened));
  int64_t padding = 0;
  TextMemory joined = files[0].load(finished_memory(files[0]), /*mapped=*/true, opened.header.device);
  for (size_t i = 1; i < files.size(); ++i) {
    int64_t added = 0;
    joined = join_texts(opened.reader, joined, files[i].load(finished_memory(files[i]), /*mapped=*/true, opened.header.device), &added);
    padding += added;
  }
  save_memory(o.output, maker_of(opened), joined);
  fmt::print("{}: {} tokens in {} documents{}\n", o.output, joined.tokens.size(), joined.documents.size(),
             padding > 0 ? fmt::format(", {} pad tokens between the texts", padding) : "");
  return 0;
}

}  // namespace

void add_edit(Command& app, Action* action) {
  auto o = std::make_shared<EditOptions>();
  Command* command = app.add_subcommand("edit", "Overwrite, insert or delete tokens of a memory; only what feels it is encoded again");
  add_session_options(command, &o->session);
  command->add_option("MEMORY", o->memory, "memory file")->required();
  command->add_option("--at", o->at, "first token")->range(0, int64_t{1} << 50)->required();
  command->add_option("--text", o->text, "new text: overwrites as many tokens as it has");
  command->add_flag("--insert", o->insert, "put the text in front of the token instead (both on the chunk grid)");
  command->add_option("--delete", o->count, "delete so many tokens (on the chunk grid)")->range(1, int64_t{1} << 50);
  command->add_flag("--show", o->show, "only show the text there (--delete: so many tokens)");
  command->callback([o, action] { *action = [o] { return run_edit(*o); }; });
}

void add_join(Command& app, Action* action) {
  auto o = std::make_shared<JoinOptions>();
  Command* command = app.add_subcommand("join", "One memory of several texts that were read apart");
  add_session_options(command, &o->session);
  command->add_option("MEMORY", o->memories, "memory files, in the order of the text")->required();
  command->add_option("-o,--output", o->output, "memory file to write")->required();
  command->add_flag("--force", o->force, "replace an existing file");
  command->callback([o, action] { *action = [o] { return run_join(*o); }; });
}

}  // namespace cairn
