// The inspector: answers of a model token by token, with the chunks of the text that each token read, as one HTML file (docs/report.md).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "cairn/core/files.h"

namespace cairn::report {

inline constexpr int64_t kWhileAnswering = -1;  // the "document" of chunks that the model completed while it wrote its answer

// A file of answers as `cairn ask` writes it (docs/report.md, "The answers file"). Texts are valid UTF-8; every index is checked: a read
// names a chunk that is there, a chunk names a document that holds it.
struct Answers {
  struct Document {
    std::string name;
    int64_t begin_chunk = 0, end_chunk = 0;  // [begin, end) of the memory's chunks
    int64_t bytes = 0;                       // length of the text
  };
  struct Chunk {
    int64_t chunk = 0;                // number within the memory
    int64_t document = 0;             // index into documents, or kWhileAnswering
    int64_t begin = 0, end = 0;       // bytes within the document
    std::string text, before, after;  // its text and that of its neighbours (empty at the edges)
  };
  struct Read {
    int64_t retrieval = 0;
    size_t chunk = 0;   // index into chunks
    double weight = 0;  // 0 to 1
  };
  struct Token {
    std::string text;
    double probability = 0;
    std::vector<Read> reads;  // by retrieval, then by falling weight
  };
  struct Question {
    std::string question, answer;
    double seconds = 0;
    std::vector<Token> tokens;
  };

  std::string model, fingerprint, memory, command, created;  // memory: empty if the text was read for these answers only
  int64_t chunk = 0, memory_tokens = 0;                      // tokens a chunk; tokens read
  std::vector<Document> documents;
  std::vector<Chunk> chunks;  // ascending by number
  std::vector<Question> questions;
};

// UserError naming file and member ("a.json: questions[3].tokens[0]: ...") for everything that is missing, of the wrong kind, or
// contradicts the rest of the file.
Answers parse_answers(std::string_view text, const std::string& source);
Answers read_answers(const fs::path& path);

// The page: complete in itself, loads nothing. The same answers give the same bytes.
std::string inspector_page(const Answers& answers);

std::string_view inspector_style();   // CSS, behind page_style()
std::string_view inspector_guard();   // script that runs first: remembers errors of the other one (html data-error)
std::string_view inspector_script();  // selecting tokens and chunks; sets html data-ready at its end

}  // namespace cairn::report

namespace cairn {

// Reads `answers_json` and writes the page to `html` (must end in .html or .htm), whole or not at all.
void write_inspector(const fs::path& answers_json, const fs::path& html);

}  // namespace cairn
