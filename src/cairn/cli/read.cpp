// cairn read MODEL FILE... -o NAME.memory: a text becomes a memory that is a file.
#include <ATen/ops/full.h>
#include <fmt/format.h>

#include <csignal>
#include <cstdio>
#include <memory>
#include <optional>

#include "cairn/cli/memory_session.h"
#include "cairn/cli/together.h"
#include "cairn/core/error.h"
#include "cairn/core/progress.h"
#include "cairn/infer/read_text.h"
#include "cairn/infer/shared_reading.h"
#include "cairn/text/text_parts.h"

namespace cairn {
namespace {

struct Options {
  SessionOptions session;
  std::vector<std::string> files;
  std::string output;
  bool append = false, force = false;
};

// What process 0 needs to read; the others have the model alone.
struct Opening {
  ReadTextOptions reading;
  fs::path part;
  std::optional<MemoryFile> file;
  std::optional<OpenedModel> model;
};

void open_all(const Options& options, Opening* o) {
  const fs::path output = options.output;
  o->part = options.output + ".part";
  o->reading.files.assign(options.files.begin(), options.files.end());
  o->reading.threads = options.session.threads;
  total_text_bytes(o->reading.files);  // missing files are refused before work
  if (options.append && !fs::exists(output)) throw UserError("{}: no such memory to append to", output.string());
  if (!options.append && fs::exists(output) && !options.force)
    throw UserError("{} exists; --append reads the files behind it, --force replaces it", output.string());
  const bool goes_on = options.append || fs::exists(o->part);
  if (goes_on) o->file.emplace(MemoryFile::open((options.append ? output : o->part).string(), /*writable=*/true));
  o->model.emplace(open_session(options.session, o->file ? o->file->root().compute : ""));
  if (o->file) {
    o->file->require_maker(maker_of(*o->model));
    if (options.force && reads_other_files(*o->file, o->reading.files))
      o->file->root().reading.reset();  // begin anew; the next commit frees it
  } else {
    o->file.emplace(MemoryFile::create(o->part, maker_of(*o->model)));
  }
  if (o->file->root().reading && !reads_other_files(*o->file, o->reading.files))
    std::fprintf(stderr, "cairn: going on at token %lld\n", static_cast<long long>(o->file->root().reading->memory.tokens));
}

// others: read along; null: nobody.
int read(const Options& options, Opening& opening, SharedReading* others) {
  MemoryFile& file = *opening.file;
  install_stop_handler();
  Progress progress("read", 0, "tokens");
  const auto tell = [&](const ReadTextProgress& now) {
    std::string note;
    if (now.bytes_total > 0 && now.bytes_done > 0) {
      const double share = static_cast<double>(now.bytes_done) / static_cast<double>(now.bytes_total);
      note = fmt::format("{:.0f} % of {}", 100 * share, format_bytes(static_cast<double>(now.bytes_total)));
      if (progress.seconds() > 2 && share < 1) note += fmt::format(", {} left", format_duration(progress.seconds() * (1 - share) / share));
    }
    progress.update(now.tokens, note);
    return !stop_requested();
  };
  const ReadTextResult result = read_text(opening.model->reader, file, opening.model->tokenizer, opening.reading, tell, others);
  if (!result.finished) {
    progress.finish("stopped");
    std::fprintf(stderr, "cairn: stopped after %lld tokens; the same command goes on\n", static_cast<long long>(result.tokens));
    return kExitStopped;
  }
  const double seconds = progress.seconds();
  progress.finish();
  const int64_t documents = std::ssize(file.root().memory->documents), bytes = file.extents().file_bytes();
  opening.file.reset();
  if (!options.append) fs::rename(opening.part, options.output);
  fmt::print("{}: {} tokens in {} documents, {}; {} tokens read in {} ({:.0f} tokens/s)\n", options.output, result.tokens, documents,
             format_bytes(static_cast<double>(bytes)), result.new_tokens, format_duration(seconds),
             static_cast<double>(result.new_tokens) / seconds);
  return 0;
}

int run(const Options& options) {
  const std::shared_ptr<World> world = open_world(options.session.device);
  Opening opening;
  if (world == nullptr) {
    open_all(options, &opening);
    return read(options, opening, nullptr);
  }
  // Process 0 has the text and the file. A memory that is read on says in which precision.
  std::string precision;
  int code = together(world.get(), [&] {
    if (world->rank() == 0) open_all(options, &opening);
  });
  if (code != 0) return code;
  at::Tensor bf16 = at::full({1}, world->rank() == 0 && opening.model->header.compute == at::kBFloat16 ? 1 : 0, at::kLong);
  world->broadcast(bf16, 0);
  code = together(world.get(), [&] {
    if (world->rank() != 0) opening.model.emplace(open_session(options.session, bf16.item<int64_t>() == 1 ? "bf16" : "fp32"));
  });
  if (code == 0) {
    code = together(world.get(), [&] {
      require_same(world.get(), opening.model->header.fingerprint,
                   fmt::format("{}: is not the same model in all {} processes; put it where every machine sees it", options.session.model,
                               world->size()));
    });
  }
  if (code != 0) return code;
  SharedReading reading(opening.model->reader, *world);
  if (world->rank() != 0) {
    std::signal(SIGINT, SIG_IGN);  // process 0 stops at a place from which the reading goes on, and says so
    return reading.follow();
  }
  return lead([&] { return read(options, opening, &reading); }, [&](int exit_code) { reading.end(exit_code); });
}

}  // namespace

void add_read(Command& app, Action* action) {
  auto o = std::make_shared<Options>();
  Command* command = app.add_subcommand("read", "Read text files once into a memory file, to be asked many times");
  add_session_options(command, &o->session);
  command->add_option("FILE", o->files, "text files, UTF-8, documents separated by NUL bytes; - is standard input")->required();
  command->add_option("-o,--output", o->output, "memory file (NAME.memory)")->required();
  command->add_flag("--append", o->append, "read the files behind the text of an existing memory");
  command->add_flag("--force", o->force,
                    "replace an existing memory file, and an unfinished reading of other files (with --append: only the latter)");
  command->footer("Started by torchrun, mpirun or srun, several processes read a part of the text each; process 0 has text and file.");
  command->callback([o, action] { *action = [o] { return run(*o); }; });
}

}  // namespace cairn
