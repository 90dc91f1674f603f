// Text files -> token ids, piece by piece: the text streams through in rounds of some megabytes, is cut into documents (separated by NUL
// bytes; each file ends one) and these into parts that are encoded on all threads. Memory stays bounded (one round and its tokens) however
// long the text is, and the ids are those of encode() over each whole document wherever it is cut.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cairn/core/files.h"
#include "cairn/text/tokenizer.h"

namespace cairn {

// A place in a row of text files where reading can go on: a cut between parts. offset: bytes from the file's begin.
struct TextPlace {
  int64_t source = 0, offset = 0;
};

struct TextPart {
  std::vector<int32_t> ids;
  int64_t bytes = 0;             // of text
  TextPlace begin;               // where its text begins
  bool begins_document = false;  // first part of a document; empty documents have none
};

class TextParts {
 public:
  // UserError: no file, one that is missing, a folder, or standard input ("-") named twice. threads: 0 = all cores.
  TextParts(std::shared_ptr<const Tokenizer> tokenizer, std::vector<fs::path> files, int threads = 0, TextPlace start = {},
            int64_t round_bytes = int64_t{8} << 20);
  ~TextParts();
  TextParts(const TextParts&) = delete;
  TextParts& operator=(const TextParts&) = delete;

  // The parts of the next round, in order; may be empty before the end. False: all is read. UserError for text that is not UTF-8 (file and
  // byte offset), for files that cannot be read, and where the files end before `start`.
  bool next(std::vector<TextPart>* parts);
  int64_t bytes_done() const { return done_; }
  int64_t bytes_total() const { return total_; }  // 0: unknown (standard input, pipes)
  const std::string& source_name(int64_t source) const { return names_[source]; }

 private:
  class Input;
  int64_t encode_round(std::string_view text, bool last, std::vector<TextPart>* parts);
  void open_source(int64_t offset);

  std::shared_ptr<const Tokenizer> tokenizer_;
  std::vector<fs::path> files_;
  std::vector<std::string> names_;
  int threads_;
  int64_t round_bytes_, total_ = 0, done_ = 0;
  TextPlace at_;       // where text_ begins
  std::string text_;   // read but not encoded yet: from the last cut on
  bool open_ = false;  // a document has begun
  std::unique_ptr<Input> input_;
};

// Bytes of the files together; 0 if not known. UserError as above.
int64_t total_text_bytes(const std::vector<fs::path>& files);

// What stands between two documents that follow each other: a blank line (word lists know no line ends: nothing).
std::vector<int32_t> document_separator(const Tokenizer& tokenizer);

}  // namespace cairn
