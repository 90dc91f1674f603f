// Reads a file of answers. Nothing in it is believed: numbers are held against each other before the page is built on them.
#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <unordered_map>

#include "cairn/core/error.h"
#include "cairn/report/fields.h"
#include "cairn/report/inspector.h"

namespace cairn::report {
namespace {

constexpr int64_t kMaxFileBytes = int64_t{1} << 28;  // parsed, a file takes about five times its size
constexpr int64_t kMaxCount = int64_t{1} << 50;
constexpr int64_t kMaxRetrievals = 256;
constexpr double kWeightSlack = 1e-3;  // weights may be rounded, or come from bf16

std::string text_of(const Fields& fields, const char* name) {
  const Json& value = fields.at(name);
  if (!value.is_string()) throw UserError("{}: \"{}\" must be text, found {}", fields.where(), name, value.type_name());
  return value.get<std::string>();
}

double number_of(const Fields& fields, const char* name, double low, double high) {
  fields.at(name);
  return fields.number_in(name, low, high);
}

const Json& list_of(const Fields& fields, const char* name) {
  const Json& value = fields.at(name);
  if (!value.is_array()) throw UserError("{}: \"{}\" must be a list, found {}", fields.where(), name, value.type_name());
  return value;
}

// "a.json: questions[3]", "a.json: questions[3].tokens[0]"
std::string item(const std::string& where, const char* list, size_t i, bool top = false) {
  return fmt::format("{}{}{}[{}]", where, top ? ": " : ".", list, i);
}

bool is_hex(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

// 2026-11-22T01:02:03Z
bool is_utc_time(std::string_view text) {
  constexpr std::string_view kForm = "dddd-dd-ddTdd:dd:ddZ";
  return text.size() == kForm.size() && std::equal(text.begin(), text.end(), kForm.begin(),
                                                   [](char c, char form) { return form == 'd' ? c >= '0' && c <= '9' : c == form; });
}

void read_header(const Fields& file, Answers* answers) {
  if (const std::string kind = text_of(file, "kind"); kind != "cairn.answers") {
    throw UserError("{}: \"kind\" is \"{}\"; the inspector reads \"cairn.answers\", the file that `cairn ask` writes", file.where(), kind);
  }
  if (const int64_t version = file.integer("version", 0, kMaxCount); version != 1) {
    throw UserError("{}: \"version\" is {}; this program knows version 1", file.where(), version);
  }
  answers->model = text_of(file, "model");
  answers->fingerprint = text_of(file, "fingerprint");
  if (answers->fingerprint.size() != 16 || !is_hex(answers->fingerprint)) {
    throw UserError("{}: \"fingerprint\" must be 16 hexadecimal digits in lower case", file.where());
  }
  answers->memory = text_of(file, "memory");
  answers->command = text_of(file, "command");
  answers->created = text_of(file, "created");
  if (!is_utc_time(answers->created)) throw UserError("{}: \"created\" must be a time such as 2026-11-22T01:02:03Z", file.where());
  answers->chunk = file.integer("chunk", 1, kMaxCount);
  answers->memory_tokens = file.integer("memory_tokens", 0, kMaxCount);
}

void read_documents(const Fields& file, Answers* answers) {
  for (const Json& json : list_of(file, "documents")) {
    const Fields fields(json, item(file.where(), "documents", answers->documents.size(), true));
    Answers::Document document;
    document.name = text_of(fields, "name");
    document.begin_chunk = fields.integer("begin_chunk", 0, kMaxCount);
    document.end_chunk = fields.integer("end_chunk", document.begin_chunk, kMaxCount);
    document.bytes = fields.integer("bytes", 0, kMaxCount);
    if (!answers->documents.empty() && document.begin_chunk < answers->documents.back().begin_chunk) {
      throw UserError("{}: \"begin_chunk\" is {}, before that of the document in front of it", fields.where(), document.begin_chunk);
    }
    answers->documents.push_back(std::move(document));
  }
}

void read_chunks(const Fields& file, Answers* answers) {
  std::set<int64_t> seen;
  for (const Json& json : list_of(file, "chunks")) {
    const Fields fields(json, item(file.where(), "chunks", answers->chunks.size(), true));
    Answers::Chunk chunk;
    chunk.chunk = fields.integer("chunk", 0, kMaxCount);
    if (!seen.insert(chunk.chunk).second) throw UserError("{}: chunk {} is there twice", fields.where(), chunk.chunk);
    chunk.document = fields.integer("document", kWhileAnswering, static_cast<int64_t>(answers->documents.size()) - 1);
    chunk.begin = fields.integer("begin", 0, kMaxCount);
    chunk.end = fields.integer("end", chunk.begin, kMaxCount);
    if (chunk.document != kWhileAnswering) {
      const Answers::Document& document = answers->documents[static_cast<size_t>(chunk.document)];
      if (chunk.chunk < document.begin_chunk || chunk.chunk >= document.end_chunk) {
        throw UserError("{}: chunk {} is none of document {}, which holds chunks {} to {}", fields.where(), chunk.chunk, chunk.document,
                        document.begin_chunk, document.end_chunk - 1);
      }
      if (chunk.end > document.bytes) {
        throw UserError("{}: \"end\" is {}, but document {} has {} bytes", fields.where(), chunk.end, chunk.document, document.bytes);
      }
    }
    chunk.text = text_of(fields, "text");
    chunk.before = text_of(fields, "before");
    chunk.after = text_of(fields, "after");
    answers->chunks.push_back(std::move(chunk));
  }
  std::sort(answers->chunks.begin(), answers->chunks.end(),
            [](const Answers::Chunk& a, const Answers::Chunk& b) { return a.chunk < b.chunk; });
}

class QuestionReader {
 public:
  explicit QuestionReader(const Answers& answers) {
    for (size_t i = 0; i < answers.chunks.size(); ++i) index_[answers.chunks[i].chunk] = i;
  }

  Answers::Question question(const Json& json, const std::string& where) const {
    const Fields fields(json, where);
    Answers::Question question;
    question.question = text_of(fields, "question");
    question.answer = text_of(fields, "answer");
    question.seconds = number_of(fields, "seconds", 0, 1e12);
    for (const Json& one : list_of(fields, "tokens")) question.tokens.push_back(token(one, item(where, "tokens", question.tokens.size())));
    return question;
  }

 private:
  Answers::Token token(const Json& json, const std::string& where) const {
    const Fields fields(json, where);
    Answers::Token token;
    token.text = text_of(fields, "text");
    token.probability = number_of(fields, "probability", 0, 1);
    std::map<int64_t, double> sums;
    std::set<std::pair<int64_t, size_t>> seen;
    for (const Json& one : list_of(fields, "reads")) {
      const Fields read(one, item(where, "reads", token.reads.size()));
      const int64_t retrieval = read.integer("retrieval", 0, kMaxRetrievals - 1), number = read.integer("chunk", 0, kMaxCount);
      const double weight = number_of(read, "weight", 0, 1);
      const auto found = index_.find(number);
      if (found == index_.end()) throw UserError("{}: chunk {} is not in the list of chunks", read.where(), number);
      if (!seen.emplace(retrieval, found->second).second) {
        throw UserError("{}: chunk {} is there twice in retrieval {}", read.where(), number, retrieval);
      }
      sums[retrieval] += weight;
      token.reads.push_back({retrieval, found->second, weight});
    }
    for (const auto& [retrieval, sum] : sums) {
      if (sum > 1 + kWeightSlack) {
        throw UserError("{}: \"reads\": the weights of retrieval {} sum to {:.4f}, more than 1", where, retrieval, sum);
      }
    }
    std::stable_sort(token.reads.begin(), token.reads.end(), [](const Answers::Read& a, const Answers::Read& b) {
      return a.retrieval != b.retrieval ? a.retrieval < b.retrieval : a.weight > b.weight;
    });
    return token;
  }

  std::unordered_map<int64_t, size_t> index_;  // number of a chunk -> its place in Answers::chunks
};

}  // namespace

Answers parse_answers(std::string_view text, const std::string& source) {
  const Json json = parse_json(text, source);
  const Fields file(json, source);
  Answers answers;
  read_header(file, &answers);
  read_documents(file, &answers);
  read_chunks(file, &answers);
  const QuestionReader reader(answers);
  for (const Json& one : list_of(file, "questions")) {
    answers.questions.push_back(reader.question(one, item(source, "questions", answers.questions.size(), true)));
  }
  return answers;
}

Answers read_answers(const fs::path& path) { return parse_answers(read_file(path, kMaxFileBytes), path.string()); }

}  // namespace cairn::report
