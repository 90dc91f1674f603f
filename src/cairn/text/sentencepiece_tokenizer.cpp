// SentencePiece BPE behind a cache of words.
//
// BPE merges neighbours only if their concatenation is a piece of the vocabulary. So between two characters a, b that stand side by side in
// no piece no merge ever happens, and a text may be cut there: its encoding is the concatenation of its parts' encodings. The table of such
// pairs is taken from the vocabulary itself (so it is right for every model, not only for ours); with our training the cuts are in front of
// every space, around digits, punctuation and line ends. The parts are words, most of which were seen before.
#include <sentencepiece_processor.h>

#include <algorithm>
#include <unordered_map>

#include "cairn/core/error.h"
#include "cairn/text/piece_cache.h"
#include "cairn/text/sentencepiece_model.h"
#include "cairn/text/tokenizer_kinds.h"
#include "cairn/text/utf8.h"

namespace cairn {
namespace {

constexpr char32_t kSpaceMark = 0x2581;            // SentencePiece's spelling of a space inside pieces
constexpr int64_t kMaxUncut = int64_t{256} << 20;  // bytes; the library counts in int

// Which characters stand side by side within some piece.
class PairTable {
 public:
  explicit PairTable(const SentencePieceModel& model) : ascii_(128 * 128, 0) {
    std::vector<uint64_t> keys;
    for (const auto& piece : model.pieces) {
      if (piece.type != SentencePieceModel::kNormal && piece.type != SentencePieceModel::kUserDefined &&
          piece.type != SentencePieceModel::kUnused)
        continue;
      char32_t previous = 0;
      int length = 0;
      for (size_t at = 0; at < piece.text.size(); at += length) {
        char32_t c = utf8_at(piece.text, at, &length);
        if (c == kSpaceMark) c = ' ';
        if (at > 0) {
          if (previous < 128 && c < 128)
            ascii_[previous * 128 + c] = 1;
          else
            keys.push_back(key(previous, c));
        }
        previous = c;
      }
    }
    std::sort(keys.begin(), keys.end());
    keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
    size_t size = 16;
    while (size < keys.size() * 4) size *= 2;
    others_.assign(size, 0);  // 0 is no key: a pair with a character above 127 is never 0
    for (const uint64_t k : keys) {
      size_t slot = mix(k);
      while (others_[slot] != 0) slot = (slot + 1) & (size - 1);
      others_[slot] = k;
    }
  }

  // A mark that stands in the text itself is joined to nothing: its keys never enter the table.
  bool joined(char32_t a, char32_t b) const {
    if ((a | b) < 128) return ascii_[a * 128 + b] != 0;
    const uint64_t wanted = key(a, b);
    for (size_t slot = mix(wanted); others_[slot] != 0; slot = (slot + 1) & (others_.size() - 1))
      if (others_[slot] == wanted) return true;
    return false;
  }

 private:
  static uint64_t key(char32_t a, char32_t b) { return static_cast<uint64_t>(a) << 32 | b; }
  size_t mix(uint64_t k) const { return (k * 0x9E3779B97F4A7C15ull >> 32) & (others_.size() - 1); }

  std::vector<uint8_t> ascii_;
  std::vector<uint64_t> others_;  // open addressing
};

class SentencePieceTokenizer : public Tokenizer {
 public:
  SentencePieceTokenizer(std::string_view bytes, const std::string& source)
      : serialized_(bytes), model_(parse_sentencepiece_model(bytes, source)), pairs_(model_) {
    const auto status = library_.LoadFromSerializedProto(serialized_);
    if (!status.ok()) throw UserError("{}: SentencePiece cannot load this model: {}", source, status.ToString());
    if (library_.GetPieceSize() != vocab_size())
      throw UserError("{}: SentencePiece sees {} pieces in it, must be {}", source, library_.GetPieceSize(), vocab_size());
    surface_.reserve(model_.pieces.size());
    for (size_t id = 0; id < model_.pieces.size(); ++id) {
      const auto& piece = model_.pieces[id];
      if (piece.type == SentencePieceModel::kByte) byte_id_[piece.byte] = static_cast<int32_t>(id);
      surface_.push_back(make_surface(piece));
    }
    for (int c = 0; c < 128; ++c) {
      const char one = static_cast<char>(c);
      const auto ids = ask_library({&one, 1});
      if (ids.size() != 1) throw UserError("{}: SentencePiece gives {} tokens for the one character {}", source, ids.size(), c);
      ascii_id_[c] = ids[0];
    }
  }

  std::vector<int32_t> encode(std::string_view text) const override {
    require_utf8(text, "the text to encode");
    std::vector<int32_t> ids;
    ids.reserve(text.size() / 3 + 16);
    for (size_t at = 0; at < text.size();) {
      int length = 0;
      const size_t begin = at;
      char32_t previous = utf8_at(text, at, &length);
      at += length;
      if (previous == kSpaceMark) {  // the library would read it as a space: spell its bytes
        for (size_t i = begin; i < at; ++i) ids.push_back(byte_id_[static_cast<unsigned char>(text[i])]);
        continue;
      }
      while (at < text.size()) {
        const char32_t c = utf8_at(text, at, &length);
        if (!pairs_.joined(previous, c)) break;
        at += length;
        previous = c;
      }
      append_word(text.substr(begin, at - begin), &ids);
    }
    return ids;
  }

  std::string decode(std::span<const int32_t> ids) const override {
    std::string text;
    for (const int32_t id : ids) {
      if (id < 0 || id >= vocab_size())
        throw UserError("token id {} is outside the vocabulary of {} (ids 0 to {})", id, vocab_size(), vocab_size() - 1);
      text += surface_[id];
    }
    return text;
  }

  int64_t cut_before(std::string_view text, int64_t position) const override {
    int64_t at = std::min(position, static_cast<int64_t>(text.size()) - 1);
    const auto starts_character = [&](int64_t i) { return (static_cast<unsigned char>(text[i]) & 0xC0) != 0x80; };
    const auto character_start = [&](int64_t i) {
      while (i > 0 && !starts_character(i)) --i;
      return i;
    };
    if (at <= 0) return 0;
    at = character_start(at);
    while (at > 0) {
      const int64_t before = character_start(at - 1);
      int length = 0;
      if (!pairs_.joined(utf8_at(text, before, &length), utf8_at(text, at, &length))) return at;
      at = before;
    }
    return 0;
  }

  int32_t vocab_size() const override { return static_cast<int32_t>(model_.pieces.size()); }
  std::string kind() const override { return "sentencepiece"; }
  std::string serialized() const override { return serialized_; }

 private:
  static std::string make_surface(const SentencePieceModel::Piece& piece) {
    switch (piece.type) {
      case SentencePieceModel::kByte:
        return std::string(1, static_cast<char>(piece.byte));
      case SentencePieceModel::kControl:
        return {};
      case SentencePieceModel::kUnknown:
        return "\xEF\xBF\xBD";
      default:
        break;
    }
    std::string surface;
    int length = 0;
    for (size_t at = 0; at < piece.text.size(); at += length) {
      if (utf8_at(piece.text, at, &length) == kSpaceMark)
        surface += ' ';
      else
        surface.append(piece.text, at, length);
    }
    return surface;
  }

  std::vector<int32_t> ask_library(std::string_view word) const {
    if (static_cast<int64_t>(word.size()) > kMaxUncut)
      throw UserError(
          "{} bytes of the text have no place where they can be cut into words (no space, no line end, no punctuation): this is no text",
          word.size());
    std::vector<int> ids;
    const auto status = library_.Encode({word.data(), word.size()}, &ids);
    CAIRN_CHECK(status.ok(), "SentencePiece: {}", status.ToString());
    return ids;
  }

  void append_word(std::string_view word, std::vector<int32_t>* ids) const {
    if (word.size() == 1) {
      ids->push_back(ascii_id_[static_cast<unsigned char>(word[0])]);
      return;
    }
    if (word.size() > PieceCache::kMaxWordBytes) {
      const auto fresh = ask_library(word);
      ids->insert(ids->end(), fresh.begin(), fresh.end());
      return;
    }
    const uint64_t hash = PieceCache::hash(word);
    const auto known = cache_.find(word, hash);
    if (known.data() != nullptr) {
      for (const int32_t id : known) ids->push_back(id);
      return;
    }
    const auto fresh = ask_library(word);
    ids->insert(ids->end(), fresh.begin(), fresh.end());
    cache_.insert(word, hash, fresh);
  }

  std::string serialized_;
  SentencePieceModel model_;
  PairTable pairs_;
  sentencepiece::SentencePieceProcessor library_;
  std::vector<std::string> surface_;  // id -> text
  int32_t byte_id_[256] = {};
  int32_t ascii_id_[128] = {};
  mutable PieceCache cache_;
};

}  // namespace

std::shared_ptr<const Tokenizer> parse_sentencepiece_tokenizer(std::string_view bytes, const std::string& source) {
  return std::make_shared<SentencePieceTokenizer>(bytes, source);
}

}  // namespace cairn
