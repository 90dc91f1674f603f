// Text <-> token ids. Contract of every tokenizer: decode(encode(x)) == x for all valid UTF-8; no dummy prefix, whitespace kept, digits
// split, identity normalisation. encode() of text that is not UTF-8 is a UserError with the byte offset. Objects are immutable and
// thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cairn/core/files.h"

namespace cairn {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual std::vector<int32_t> encode(std::string_view text) const = 0;
  // The exact bytes, so decode(a + b) == decode(a) + decode(b) ("words": with a space between). Ids may end within a character: show
  // partial results through repair_utf8() (text/utf8.h). Pad and control ids give nothing ("words": "<pad>"). UserError for ids outside the
  // vocabulary.
  virtual std::string decode(std::span<const int32_t> ids) const = 0;
  virtual int32_t vocab_size() const = 0;
  virtual std::string kind() const = 0;        // "sentencepiece" | "bytes" | "words"
  virtual std::string serialized() const = 0;  // bytes of the file that load_tokenizer() reads
  // The last place p in 1..position (position < text.size()) where valid UTF-8 text may be cut: encode(text) == encode(text[0..p)) +
  // encode(text[p..)), whatever follows. 0 if there is none.
  virtual int64_t cut_before(std::string_view text, int64_t position) const = 0;
  std::string fingerprint() const;      // hash of kind and serialized form, 16 hex digits
  int32_t pad_id() const { return 0; }  // id 0 of every kind: fills incomplete chunks; occurs in training
  std::string decode_one(int32_t id) const { return decode(std::span<const int32_t>(&id, 1)); }
};

// "bytes", or the path of a file: SentencePiece model or Cairn word list (see docs/formats.md).
std::shared_ptr<const Tokenizer> load_tokenizer(const std::string& name_or_path);
std::shared_ptr<const Tokenizer> parse_tokenizer(std::string_view bytes, const std::string& source_name);
// 256 bytes; id 0 is the pad token, byte b has id b + 1.
std::shared_ptr<const Tokenizer> make_bytes_tokenizer();
// Whole-word tokenizer for tiny models: id 0 is "<pad>", then `words`; text is the words joined by single spaces; unknown words are a
// UserError.
std::shared_ptr<const Tokenizer> make_word_tokenizer(const std::vector<std::string>& words);

// Trains a SentencePiece BPE model on text files (documents may be separated by NUL bytes). Returns the serialized model, the same bytes
// for any number of threads. UserError: missing, empty or not UTF-8 files, a vocabulary that is too large for so little text or too small.
struct TokenizerTraining {
  std::vector<fs::path> files;
  int64_t vocab_size = 4096;
  int64_t max_sample_bytes = 50'000'000;  // a deterministic sample of the files, this much at most
  uint64_t seed = 1;                      // of the sample
  int threads = 0;                        // 0 = all cores
};
std::string train_sentencepiece(const TokenizerTraining& options);

// Encodes a long text on `threads` threads (0 = all cores), cut at places where no word piece can cross; equals encode() of the whole.
std::vector<int32_t> encode_parallel(const Tokenizer& tokenizer, std::string_view text, int threads = 0);

}  // namespace cairn
