// cairn ask MODEL NAME.memory: questions about a text that was read, each answer with the chunks that it read; cairn generate: text behind
// a prompt.
#include <ATen/TensorOperators.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "cairn/cli/memory_session.h"
#include "cairn/cli/together.h"
#include "cairn/core/error.h"
#include "cairn/core/files.h"
#include "cairn/core/progress.h"
#include "cairn/core/safetensors.h"
#include "cairn/infer/answer.h"
#include "cairn/infer/text_view.h"
#include "cairn/text/utf8.h"

namespace cairn {
namespace {

using nlohmann::json;
struct Options {
  SessionOptions session;
  SamplingOptions sampling;
  std::string memory, questions_file, json_file, prompt, logits;
  std::vector<std::string> questions;
  int64_t sources = 3, batch = 8;
  bool ram = false;
};

void add_sampling_options(Command* command, SamplingOptions* o) {
  command->add_option("--max-tokens", o->max_tokens, "longest answer, tokens")->range(1, int64_t{1} << 24)->capture_default_str();
  command->add_option("--temperature", o->temperature, "0: the most likely token; 1: as the model says")->capture_default_str();
  command->add_option("--top-p", o->top_p, "draw from the most likely tokens with so much probability together")->capture_default_str();
  command->add_option("--seed", o->seed, "seed of the draws")->capture_default_str();
  command->add_option("--stop", o->stop, "end the answer in front of this text (repeat for several)")->allow_extra_args(false);
}

// "\n", "\t" and "\\" as a shell user writes them.
std::string unescape(const std::string& text) {
  std::string result;
  for (size_t i = 0; i < text.size(); ++i) {
    const char next = text[i] == '\\' && i + 1 < text.size() ? text[i + 1] : 0;
    const char made = next == 'n' ? '\n' : next == 't' ? '\t' : next == '\\' ? '\\' : 0;
    result += made != 0 ? made : text[i];
    i += made != 0;
  }
  return result;
}

std::string one_line(std::string text, size_t most) {
  std::replace_if(
      text.begin(), text.end(), [](unsigned char c) { return c < 32 || c == 127; }, ' ');
  if (text.size() > most) text = repair_utf8(text.substr(0, most - incomplete_utf8_tail(text.substr(0, most)))) + " ...";
  return text;
}

// One answered question.
struct Asked {
  std::string question;
  Answer answer;
  double seconds = 0;
};

class Session {
 public:
  Session(const Options& options, OpenedModel& opened, const TextMemory& text)
      : options_(options), opened_(opened), text_(text), view_(text, *opened.tokenizer), chunk_(opened.config.chunk) {}

  std::vector<int32_t> prompt(const std::string& question) const {
    require_utf8(question, "the question");
    std::vector<int32_t> ids = opened_.tokenizer->encode(question);
    if (ids.empty()) throw UserError("the question is empty");
    return ids;
  }

  std::vector<std::vector<int32_t>> prompts(const std::vector<std::string>& questions) const {
    std::vector<std::vector<int32_t>> all;
    for (const std::string& question : questions) all.push_back(prompt(question));
    return all;
  }

  // Answers to several questions in one batch; a single one is shown as it comes.
  std::vector<Asked> ask(const std::vector<std::string>& questions, const std::vector<std::vector<int32_t>>& prompts, bool stream) {
    const auto begin = std::chrono::steady_clock::now();
    const std::vector<Answer> answers =
        answer(opened_.reader, *text_.state, prompts, *opened_.tokenizer, options_.sampling, [&](size_t, std::string_view fresh) {
          if (stream) {
            std::fputs(repair_utf8(fresh).c_str(), stdout);
            std::fflush(stdout);
          }
          return !stop_requested();
        });
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    std::vector<Asked> asked;
    for (size_t i = 0; i < questions.size(); ++i)
      asked.push_back({questions[i], answers[i], seconds / static_cast<double>(questions.size())});
    return asked;
  }

  // The heaviest chunks of an answer: mean share over its tokens and retrievals.
  void print_sources(const Answer& answer) const {
    std::map<int64_t, double> weight;
    double total = 0;
    for (const GeneratedToken& token : answer.tokens) {
      for (const ChunkRead& read : token.reads) weight[read.chunk] += read.weight, total += read.weight;
    }
    std::vector<std::pair<double, int64_t>> order;
    for (const auto& [chunk, w] : weight) order.emplace_back(-w, chunk);
    std::sort(order.begin(), order.end());
    for (size_t i = 0; i < order.size() && std::cmp_less(i, options_.sources); ++i) {
      const int64_t chunk = order[i].second;
      fmt::print("  {:3.0f} %  {}\n", -100 * order[i].first / total, place(chunk));
    }
  }

  json to_json(const std::vector<Asked>& asked, const std::string& model) const {
    std::map<int64_t, bool> named;
    json questions = json::array();
    for (const Asked& one : asked) {
      json tokens = json::array();
      for (const GeneratedToken& token : one.answer.tokens) {
        json reads = json::array();
        for (const ChunkRead& read : token.reads) {
          named[read.chunk] = true;
          reads.push_back({{"retrieval", read.retrieval}, {"chunk", read.chunk}, {"weight", std::min(1.0, read.weight)}});
        }
        tokens.push_back(
            {{"text", repair_utf8(opened_.tokenizer->decode_one(token.id))}, {"probability", token.probability}, {"reads", reads}});
      }
      questions.push_back({{"question", repair_utf8(one.question)},
                           {"answer", repair_utf8(one.answer.text)},
                           {"seconds", one.seconds},
                           {"tokens", tokens}});
    }
    json chunks = json::array(), documents = json::array();
    const int64_t complete = text_.state->chunks();
    for (const auto& [chunk, unused] : named) {
      if (chunk >= complete) {  // completed while decoding
        chunks.push_back({{"chunk", chunk}, {"document", -1}, {"begin", 0}, {"end", 0}, {"text", ""}, {"before", ""}, {"after", ""}});
        continue;
      }
      const int64_t document = text_.document_of(chunk * chunk_), first = text_.documents[document].token, size = text_.tokens.size();
      const int64_t begin = view_.bytes(std::min(first, chunk * chunk_), chunk * chunk_);
      chunks.push_back({{"chunk", chunk},
                        {"document", document},
                        {"begin", begin},
                        {"end", begin + view_.bytes(chunk * chunk_, std::min((chunk + 1) * chunk_, view_.document_end(document)))},
                        {"text", view_.text(chunk * chunk_, (chunk + 1) * chunk_)},
                        {"before", view_.text(std::max<int64_t>(0, (chunk - 1) * chunk_), chunk * chunk_)},
                        {"after", view_.text((chunk + 1) * chunk_, std::min(size, (chunk + 2) * chunk_))}});
    }
    for (int64_t d = 0; d < std::ssize(text_.documents); ++d) {
      const int64_t first = text_.documents[d].token, end = view_.document_end(d);
      documents.push_back({{"name", repair_utf8(text_.documents[d].name)},
                           {"begin_chunk", first / chunk_},
                           {"end_chunk", std::max(first / chunk_, (end + chunk_ - 1) / chunk_)},
                           {"bytes", view_.bytes(first, end)}});
    }
    return {{"kind", "cairn.answers"},
            {"version", 1},
            {"model", model},
            {"fingerprint", opened_.header.fingerprint},
            {"memory", options_.memory},
            {"command", opened_.header.command},
            {"created", opened_.header.created},
            {"chunk", chunk_},
            {"memory_tokens", text_.tokens.size()},
            {"documents", documents},
            {"chunks", chunks},
            {"questions", questions}};
  }

 private:
  // "book.txt, bytes 1200 to 1460 (chunk 17): text".
  std::string place(int64_t chunk) const {
    if (chunk >= text_.state->chunks()) return fmt::format("chunk {}, completed by question and answer", chunk);
    const int64_t begin = chunk * chunk_, document = text_.document_of(begin), first = text_.documents[document].token;
    const int64_t byte = view_.bytes(first, begin), size = view_.bytes(begin, begin + chunk_);
    return fmt::format("{}, bytes {} to {} (chunk {}): {}", one_line(text_.documents[document].name, 60), byte, byte + size, chunk,
                       one_line(view_.text(begin, begin + chunk_), 160));
  }

  const Options& options_;
  OpenedModel& opened_;
  const TextMemory& text_;
  TextView view_;
  int64_t chunk_;
};

std::vector<std::string> questions_of(const Options& options) {
  std::vector<std::string> questions;
  for (const std::string& text : options.questions) questions.push_back(unescape(text));
  if (options.questions_file.empty()) return questions;
  const std::string text = read_file(options.questions_file, int64_t{1} << 28);
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    if (end > at) questions.push_back(unescape(text.substr(at, end - at)));
    at = end + 1;
  }
  if (questions.empty()) throw UserError("{}: holds no question (one a line)", options.questions_file);
  return questions;
}

// A model and the memory it is asked about; with `world` this process's share of it.
struct Opening {
  std::optional<MemoryFile> file;
  std::optional<OpenedModel> model;
  TextMemory text;  // without a file: empty
};

void open_all(const Options& options, const std::shared_ptr<World>& world, Opening* o) {
  if (!options.memory.empty()) o->file.emplace(MemoryFile::open(options.memory, /*writable=*/false));
  if (o->file) finished_memory(*o->file);  // before the model is loaded
  o->model.emplace(open_session(options.session, o->file ? o->file->root().compute : "", world));
  if (o->file) o->file->require_maker(maker_of(*o->model));
  if (o->file) o->text = load_memory(*o->file, finished_memory(*o->file), /*mapped=*/!options.ram, *o->model);
  if (!o->file) o->text.state = o->model->reader.new_reader_state(1);
}

// On several machines a path may lead to different files.
void require_same_memory(const std::optional<MemoryFile>& file, World* world) {
  if (world == nullptr || !file) return;
  require_same(world, file->root().to_json(),
               fmt::format("{}: is not the same file in all {} processes; put it where every machine sees it", file->path().string(),
                           world->size()));
}

// Asks and prints. others: hear every batch of prompts; null: nobody else is there.
int talk(const Options& options, Opening& opening, std::vector<std::string> questions, Talk* others) {
  Session session(options, *opening.model, opening.text);
  std::vector<Asked> all;
  const bool interactive = questions.empty();
  const auto ask = [&](const std::vector<std::string>& some) {
    const bool stream = some.size() == 1;
    const std::vector<std::vector<int32_t>> prompts = session.prompts(some);
    if (stream && !interactive) fmt::print("> {}\n", one_line(some[0], 400));
    if (others != nullptr) others->tell(prompts);
    std::vector<Asked> asked = session.ask(some, prompts, stream);
    for (Asked& one : asked) {
      if (!stream) fmt::print("> {}\n{}", one_line(one.question, 400), repair_utf8(one.answer.text));
      fmt::print("\n");
      session.print_sources(one.answer);
      all.push_back(std::move(one));
    }
    std::fflush(stdout);
    if (!options.json_file.empty()) write_file(options.json_file, session.to_json(all, options.session.model).dump(1) + "\n");
  };
  if (interactive) {
    const bool terminal = isatty(STDIN_FILENO) != 0;
    if (terminal) fmt::print("{} tokens of text; one question a line, end with Ctrl-D\n", opening.text.tokens.size());
    InputLines lines(others != nullptr ? [others] { others->still_here(); } : std::function<void()>());
    for (std::string line; !stop_requested();) {
      if (terminal) fmt::print("> ");
      std::fflush(stdout);
      if (!lines.next(&line)) break;
      if (line.empty()) continue;
      try {
        ask({unescape(line)});
      } catch (const UserError& error) {
        if (!terminal) throw;
        std::fprintf(stderr, "cairn: %s\n", error.what());
      }
    }
  }
  for (size_t i = 0; i < questions.size() && !stop_requested(); i += options.batch) {
    ask({questions.begin() + i, questions.begin() + std::min(questions.size(), i + options.batch)});
  }
  return stop_requested() ? kExitStopped : 0;
}

// The others answer what process 0 is asked: each of them holds a share of the memory.
int follow(const Options& options, const Opening& opening, World& world) {
  Talk talk(world);
  for (;;) {
    int code = 0;
    const auto prompts = talk.hear(&code);
    if (!prompts) return code;
    answer(opening.model->reader, *opening.text.state, *prompts, *opening.model->tokenizer, options.sampling);
  }
}

int run_ask(const Options& options) {
  options.sampling.validate();
  const std::shared_ptr<World> world = open_world(options.session.device);
  Opening opening;
  std::vector<std::string> questions;
  int code = together(world.get(), [&] {
    if (is_first(world.get())) questions = questions_of(options);
    open_all(options, world, &opening);
    if (options.json_file.empty() || !is_first(world.get())) return;
    Session session(options, *opening.model, opening.text);
    write_file(options.json_file, session.to_json({}, options.session.model).dump(1) + "\n");
  });
  if (code == 0) code = together(world.get(), [&] { require_same_memory(opening.file, world.get()); });
  if (code != 0) return code;
  if (world == nullptr) {
    install_stop_handler();
    return talk(options, opening, std::move(questions), nullptr);
  }
  // No stop handler: several processes would stop at different places and wait for each other.
  if (world->rank() > 0) return follow(options, opening, *world);
  Talk others(*world);
  return lead([&] { return talk(options, opening, std::move(questions), &others); }, [&](int exit_code) { others.end(exit_code); });
}

int run_generate(const Options& options) {
  options.sampling.validate();
  const std::shared_ptr<World> world = open_world(options.session.device);
  const bool first = is_first(world.get());
  Opening opening;
  std::vector<int32_t> ids;
  int code = together(world.get(), [&] {
    open_all(options, world, &opening);
    const std::string prompt = unescape(options.prompt);
    require_utf8(prompt, "the prompt");
    ids = opening.model->tokenizer->encode(prompt);
    if (ids.empty()) throw UserError("the prompt is empty");
  });
  if (code == 0) code = together(world.get(), [&] { require_same_memory(opening.file, world.get()); });
  if (code != 0) return code;
  OpenedModel& opened = *opening.model;
  const ReaderState& state = *opening.text.state;
  if (!options.logits.empty()) {
    const std::vector<int64_t> tokens(ids.begin(), ids.end());
    const at::Tensor row = at::from_blob(const_cast<int64_t*>(tokens.data()), {1, std::ssize(tokens)}, at::kLong).clone();
    const at::Tensor logits = opened.reader.advance(*state.fork(), row.to(opened.header.device)).to(at::kCPU, at::kFloat).contiguous();
    const auto bytes = [](const void* data, size_t size) { return std::span(static_cast<const uint8_t*>(data), size); };
    code = together(world.get(), [&] {
      if (!first) return;
      write_safetensors(options.logits,
                        {{"logits", Dtype::kF32, {logits.size(1), logits.size(2)}, bytes(logits.const_data_ptr(), logits.nbytes())},
                         {"tokens", Dtype::kI64, {std::ssize(tokens)}, bytes(tokens.data(), tokens.size() * 8)}},
                        {{"format", "cairn.logits"}});
    });
    if (code != 0) return code;
  }
  if (world == nullptr) install_stop_handler();
  SamplingOptions sampling = options.sampling;
  sampling.reads = false;
  answer(opened.reader, state, {ids}, *opened.tokenizer, sampling, [&](size_t, std::string_view fresh) {
    if (first) std::fputs(repair_utf8(fresh).c_str(), stdout);
    if (first) std::fflush(stdout);
    return !stop_requested();
  });
  if (first) fmt::print("\n");
  return stop_requested() ? kExitStopped : 0;
}

}  // namespace

void add_ask(Command& app, Action* action) {
  auto o = std::make_shared<Options>();
  Command* command = app.add_subcommand("ask", "Ask about a text that was read; every answer shows which chunks it read");
  add_session_options(command, &o->session);
  command->add_option("MEMORY", o->memory, "memory file, as `cairn read` writes it")->required();
  command
      ->add_option("-q,--question", o->questions,
                   "a question, exactly as the model is to see it behind the text (\\n: line end); repeat for several")
      ->allow_extra_args(false);
  command->add_option("--questions", o->questions_file, "file with one question a line");
  add_sampling_options(command, &o->sampling);
  command->add_option("--sources", o->sources, "chunks shown for an answer")->range(0, 1000)->capture_default_str();
  command->add_option("--batch", o->batch, "questions answered together")->range(1, 4096)->capture_default_str();
  command->add_option("--json", o->json_file, "file for answers and what every token read, for `cairn inspect`");
  command->add_flag("--ram", o->ram, "load the memory instead of mapping the file; compares its checksums");
  add_memory_on(command, &o->session.memory_on, /*mapped=*/true);
  add_eight_bit(command, &o->session.landmark_dtype, &o->session.kv_dtype);
  command->footer(
      "Without -q and --questions, questions are read from standard input, one a line. Started by torchrun, mpirun or srun, several "
      "processes share the memory; process 0 talks.");
  command->callback([o, action] { *action = [o] { return run_ask(*o); }; });
}

void add_generate(Command& app, Action* action) {
  auto o = std::make_shared<Options>();
  Command* command = app.add_subcommand("generate", "Text behind a prompt, and behind the text of a memory if one is given");
  add_session_options(command, &o->session);
  command->add_option("--memory", o->memory, "memory file that stands in front of the prompt");
  command->add_option("--prompt", o->prompt, "text to go on from (\\n: line end)")->required();
  add_sampling_options(command, &o->sampling);
  command->add_option("--logits", o->logits, "safetensors file for `tokens` [n] and `logits` [n,vocab] of the prompt");
  command->add_flag("--ram", o->ram, "load the memory instead of mapping the file");
  command->footer("Started by torchrun, mpirun or srun, several processes share the memory; process 0 prints.");
  add_memory_on(command, &o->session.memory_on, /*mapped=*/true);
  add_eight_bit(command, &o->session.landmark_dtype, &o->session.kv_dtype);
  command->callback([o, action] { *action = [o] { return run_generate(*o); }; });
}

}  // namespace cairn
