// Bytes and whole words: tokenizers without training.
#include <algorithm>
#include <unordered_map>

#include "cairn/core/error.h"
#include "cairn/text/tokenizer_kinds.h"
#include "cairn/text/utf8.h"

namespace cairn {
namespace {

constexpr std::string_view kPadWord = "<pad>";
constexpr size_t kMaxWords = 1'000'000;

class BytesTokenizer : public Tokenizer {
 public:
  std::vector<int32_t> encode(std::string_view text) const override {
    require_utf8(text, "the text to encode");
    std::vector<int32_t> ids(text.size());
    for (size_t i = 0; i < text.size(); ++i) ids[i] = static_cast<unsigned char>(text[i]) + 1;
    return ids;
  }
  std::string decode(std::span<const int32_t> ids) const override {
    std::string text;
    for (const int32_t id : ids) {
      if (id < 0 || id > 256) throw UserError("token id {} is outside the vocabulary of 257 (ids 0 to 256)", id);
      if (id > 0) text += static_cast<char>(id - 1);
    }
    return text;
  }
  int64_t cut_before(std::string_view text, int64_t position) const override {
    int64_t at = std::min(position, static_cast<int64_t>(text.size()) - 1);
    while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;  // parts must be UTF-8, too
    return std::max<int64_t>(at, 0);
  }
  int32_t vocab_size() const override { return 257; }
  std::string kind() const override { return "bytes"; }
  std::string serialized() const override { return std::string(kBytesHeader); }
};

class WordTokenizer : public Tokenizer {
 public:
  WordTokenizer(const std::vector<std::string>& words, const std::string& source) {
    if (words.size() >= kMaxWords) throw UserError("{}: {} words, at most {} are possible", source, words.size(), kMaxWords - 1);
    words_.reserve(words.size() + 1);
    words_.emplace_back(kPadWord);
    for (const auto& word : words) {
      const auto line = words_.size() + 1;
      if (word.empty()) throw UserError("{}, line {}: empty word", source, line);
      if (find_invalid_utf8(word) >= 0) throw UserError("{}, line {}: the word is not UTF-8", source, line);
      if (std::any_of(word.begin(), word.end(), [](char c) { return (c >= 0 && c <= ' ') || c == 0x7F; }))
        throw UserError("{}, line {}: a word holds no spaces and no control characters", source, line);
      words_.push_back(word);
    }
    for (size_t id = 0; id < words_.size(); ++id)
      if (!ids_.emplace(words_[id], static_cast<int32_t>(id)).second)
        throw UserError("{}, line {}: the word \"{}\" occurs twice", source, id + 1, words_[id]);
  }

  std::vector<int32_t> encode(std::string_view text) const override {
    require_utf8(text, "the text to encode");
    std::vector<int32_t> ids;
    if (text.empty()) return ids;
    for (size_t at = 0;;) {
      const size_t space = std::min(text.find(' ', at), text.size());
      const std::string_view word = text.substr(at, space - at);
      const auto found = ids_.find(word);
      if (found == ids_.end())
        throw UserError("byte offset {}: \"{}\" is none of the {} words of this tokenizer (words are separated by single spaces)", at,
                        word.substr(0, 40), words_.size());
      ids.push_back(found->second);
      if (space == text.size()) return ids;
      at = space + 1;
    }
  }
  std::string decode(std::span<const int32_t> ids) const override {
    std::string text;
    for (size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] < 0 || ids[i] >= vocab_size())
        throw UserError("token id {} is outside the vocabulary of {} (ids 0 to {})", ids[i], vocab_size(), vocab_size() - 1);
      if (i > 0) text += ' ';
      text += words_[ids[i]];
    }
    return text;
  }
  // The space between two parts belongs to neither, so there is no place for a cut.
  int64_t cut_before(std::string_view, int64_t) const override { return 0; }
  int32_t vocab_size() const override { return static_cast<int32_t>(words_.size()); }
  std::string kind() const override { return "words"; }
  std::string serialized() const override {
    std::string bytes(kWordsHeader);
    for (size_t id = 1; id < words_.size(); ++id) bytes += words_[id] + "\n";
    return bytes;
  }

 private:
  std::vector<std::string> words_;  // never grows after construction: ids_ points into it
  std::unordered_map<std::string_view, int32_t> ids_;
};

}  // namespace

std::shared_ptr<const Tokenizer> make_bytes_tokenizer() { return std::make_shared<BytesTokenizer>(); }

std::shared_ptr<const Tokenizer> make_word_tokenizer(const std::vector<std::string>& words) {
  return std::make_shared<WordTokenizer>(words, "word list");
}

std::shared_ptr<const Tokenizer> parse_word_tokenizer(std::string_view bytes, const std::string& source) {
  CAIRN_CHECK(bytes.starts_with(kWordsHeader));
  bytes.remove_prefix(kWordsHeader.size());
  if (!bytes.empty() && bytes.back() != '\n') throw UserError("{}: the last word has no line end: the file is cut off", source);
  std::vector<std::string> words;
  for (size_t at = 0; at < bytes.size();) {
    const size_t end = bytes.find('\n', at);
    words.emplace_back(bytes.substr(at, end - at));
    at = end + 1;
  }
  return std::make_shared<WordTokenizer>(words, source);
}

}  // namespace cairn
