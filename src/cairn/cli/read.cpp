// cairn read MODEL FILE... -o NAME.memory: a text becomes a memory that is a file.
#include <fmt/format.h>

#include <cstdio>
#include <memory>

#include "cairn/cli/memory_session.h"
#include "cairn/core/error.h"
#include "cairn/core/progress.h"
#include "cairn/infer/read_text.h"
#include "cairn/text/text_parts.h"

namespace cairn {
namespace {

struct Options {
  SessionOptions session;
  std::vector<std::string> files;
  std::string output;
  bool append = false, force = false;
};

int run(const Options& options) {
  const fs::path output = options.output, part = options.output + ".part";
  ReadTextOptions reading;
  reading.files.assign(options.files.begin(), options.files.end());
  reading.threads = options.session.threads;
  total_text_bytes(reading.files);  // missing files are refused before work
  if (options.append && !fs::exists(output)) throw UserError("{}: no such memory to append to", output.string());
  if (!options.append && fs::exists(output) && !options.force)
    throw UserError("{} exists; --append reads the files behind it, --force replaces it", output.string());
  const bool goes_on = options.append || fs::exists(part);
  std::optional<MemoryFile> file;
  if (goes_on) file.emplace(MemoryFile::open((options.append ? output : part).string(), /*writable=*/true));
  OpenedModel opened = open_session(options.session, file ? file->root().compute : "");
  if (file) {
    file->require_maker(maker_of(opened));
    if (options.force && reads_other_files(*file, reading.files)) file->root().reading.reset();  // begin anew; the next commit frees it
  } else {
    file.emplace(MemoryFile::create(part, maker_of(opened)));
  }
  if (file->root().reading && !reads_other_files(*file, reading.files))
    std::fprintf(stderr, "cairn: going on at token %lld\n", static_cast<long long>(file->root().reading->memory.tokens));

  install_stop_handler();
  Progress progress("read", 0, "tokens");
  const ReadTextResult result = read_text(opened.reader, *file, opened.tokenizer, reading, [&](const ReadTextProgress& now) {
    std::string note;
    if (now.bytes_total > 0 && now.bytes_done > 0) {
      const double share = static_cast<double>(now.bytes_done) / static_cast<double>(now.bytes_total);
      note = fmt::format("{:.0f} % of {}", 100 * share, format_bytes(static_cast<double>(now.bytes_total)));
      if (progress.seconds() > 2 && share < 1) note += fmt::format(", {} left", format_duration(progress.seconds() * (1 - share) / share));
    }
    progress.update(now.tokens, note);
    return !stop_requested();
  });
  if (!result.finished) {
    progress.finish("stopped");
    std::fprintf(stderr, "cairn: stopped after %lld tokens; the same command goes on\n", static_cast<long long>(result.tokens));
    return kExitStopped;
  }
  const double seconds = progress.seconds();
  progress.finish();
  const int64_t documents = std::ssize(file->root().memory->documents), bytes = file->extents().file_bytes();
  file.reset();
  if (!options.append) fs::rename(part, output);
  fmt::print("{}: {} tokens in {} documents, {}; {} tokens read in {} ({:.0f} tokens/s)\n", output.string(), result.tokens, documents,
             format_bytes(static_cast<double>(bytes)), result.new_tokens, format_duration(seconds),
             static_cast<double>(result.new_tokens) / seconds);
  return 0;
}

}  // namespace

void add_read(CLI::App& app, Action* action) {
  auto o = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("read", "Read text files once into a memory file, to be asked many times");
  add_session_options(command, &o->session);
  command->add_option("FILE", o->files, "text files, UTF-8, documents separated by NUL bytes; - is standard input")->required();
  command->add_option("-o,--output", o->output, "memory file (NAME.memory)")->required();
  command->add_flag("--append", o->append, "read the files behind the text of an existing memory");
  command->add_flag("--force", o->force,
                    "replace an existing memory file, and an unfinished reading of other files (with --append: only the latter)");
  command->callback([o, action] { *action = [o] { return run(*o); }; });
}

}  // namespace cairn
