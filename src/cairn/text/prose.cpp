// Prose that is generated: token i without the tokens before it.
//
// The row of tokens is cut into blocks of kBlockTokens. A block is a pure function of (seed, block number): sentences from templates until
// no more fits, short sentences while those fit, and line ends up to the block's last token. Words are encoded once, so that a block is
// copied together from spans.
#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <string>
#include <unordered_map>

#include "cairn/core/error.h"
#include "cairn/core/random.h"
#include "cairn/text/prose_words.h"
#include "cairn/text/token_source.h"

namespace cairn {
namespace {

constexpr int64_t kBlockTokens = 2048;
constexpr uint64_t kProseStream = 0x70726f7365;  // stream key: {seed, this, block}

// Cheap uniform choices: 32 random bits each (a bias below 2^-20 for lists of ours).
class Dice {
 public:
  explicit Dice(uint64_t key) : random_(key) {}
  uint32_t below(uint32_t n) {
    if (left_ == 0) {
      bits_ = random_.next();
      left_ = 2;
    }
    const auto half = static_cast<uint32_t>(bits_);
    bits_ >>= 32;
    --left_;
    return static_cast<uint32_t>(static_cast<uint64_t>(half) * n >> 32);
  }

 private:
  Random random_;
  uint64_t bits_ = 0;
  int left_ = 0;
};

std::string plural(const std::string& word) {
  const auto ends = [&](std::string_view ending) { return std::string_view(word).ends_with(ending); };
  if (ends("s") || ends("x") || ends("ch") || ends("sh")) return word + "es";
  const bool vowel_before = word.size() > 1 && std::string_view("aeiou").find(word[word.size() - 2]) != std::string_view::npos;
  if (ends("y") && !vowel_before) return word.substr(0, word.size() - 1) + "ies";
  return word + "s";
}

class ProseSource : public TokenSource {
 public:
  ProseSource(std::shared_ptr<const Tokenizer> tokenizer, uint64_t seed)
      : tokenizer_(std::move(tokenizer)), seed_(seed), identity_(next_identity()) {
    if (tokenizer_->kind() == "words")
      throw UserError("generated prose needs a tokenizer for any text (SentencePiece or bytes), not a word list of {} words",
                      tokenizer_->vocab_size());
    line_end_ = tokenizer_->encode("\n");
    if (line_end_.size() != 1)
      throw UserError("generated prose needs a tokenizer whose line end is one token, this one has {}", line_end_.size());
    for (const auto& [slot, list] : std::initializer_list<std::pair<char, std::string_view>>{{'N', prose::names()},
                                                                                             {'n', prose::things()},
                                                                                             {'a', prose::adjectives()},
                                                                                             {'t', prose::transitive_verbs()},
                                                                                             {'i', prose::intransitive_verbs()},
                                                                                             {'d', prose::adverbs()},
                                                                                             {'w', prose::roles()},
                                                                                             {'P', prose::places()},
                                                                                             {'r', prose::prepositions()},
                                                                                             {'c', prose::numbers()},
                                                                                             {'q', prose::openings()},
                                                                                             {'u', prose::materials()}})
      add_list(slot, list, false);
    add_list('s', prose::things(), true);
    for (const auto text : prose::sentences()) sentences_.push_back(compile(text));
    for (const auto text : prose::short_sentences()) short_sentences_.push_back(compile(text));
  }

  int64_t size() const override { return kUnlimited; }
  std::string name() const override { return "prose:" + std::to_string(seed_); }

  void read(int64_t begin, std::span<int32_t> out) const override {
    CAIRN_CHECK(begin >= 0 && begin <= kUnlimited - static_cast<int64_t>(out.size()), "token {}", begin);
    // Small reads of neighbouring tokens would make the same block again and again: each thread keeps its last one.
    struct Last {
      uint64_t identity = 0;
      int64_t block = -1;
      std::array<int32_t, kBlockTokens> tokens;
    };
    thread_local Last last;
    for (size_t done = 0; done < out.size();) {
      const int64_t at = begin + static_cast<int64_t>(done);
      const int64_t block = at / kBlockTokens, offset = at % kBlockTokens;
      const size_t count = std::min<size_t>(out.size() - done, kBlockTokens - offset);
      if (count == kBlockTokens) {
        make_block(block, out.data() + done);
      } else {
        if (last.identity != identity_ || last.block != block) {
          last.identity = 0;
          make_block(block, last.tokens.data());
          last.identity = identity_;
          last.block = block;
        }
        std::copy_n(last.tokens.data() + offset, count, out.data() + done);
      }
      done += count;
    }
  }

 private:
  // A word in front of which a space may stand.
  struct Atom {
    uint32_t spaced, spaced_count;  // range of pool_: " word"
    uint32_t bare, bare_count;      // "word"
  };
  struct Element {
    bool literal, spaced;
    uint32_t first, count;  // atoms: one (literal) or a list to choose from
  };
  using Template = std::vector<Element>;

  static uint64_t next_identity() {
    static std::atomic<uint64_t> counter{0};
    return ++counter;
  }

  Atom make_atom(const std::string& word) {
    Atom atom = {};
    const auto put = [&](const std::string& text, uint32_t* first, uint32_t* count) {
      const auto ids = tokenizer_->encode(text);
      *first = static_cast<uint32_t>(pool_.size());
      *count = static_cast<uint32_t>(ids.size());
      pool_.insert(pool_.end(), ids.begin(), ids.end());
    };
    put(" " + word, &atom.spaced, &atom.spaced_count);
    put(word, &atom.bare, &atom.bare_count);
    return atom;
  }

  void add_list(char slot, std::string_view list, bool plurals) {
    Element element = {false, true, static_cast<uint32_t>(atoms_.size()), 0};
    for (size_t at = 0; at <= list.size();) {
      const size_t end = std::min(list.find('|', at), list.size());
      const std::string word(list.substr(at, end - at));
      atoms_.push_back(make_atom(plurals ? plural(word) : word));
      ++element.count;
      at = end + 1;
    }
    slots_[slot] = element;
  }

  // Splits a template at spaces and around slots; what follows a slot or a quotation mark directly has no space in front.
  Template compile(std::string_view text) {
    Template compiled;
    bool spaced = true;
    for (size_t at = 0; at < text.size();) {
      if (text[at] == ' ') {
        spaced = true;
        ++at;
        continue;
      }
      Element element;
      if (text[at] == '$') {
        element = slots_.at(text[at + 1]);
        at += 2;
      } else {
        const size_t end = std::min(text.find_first_of(" $", at), text.size());
        element = {true, true, static_cast<uint32_t>(atoms_.size()), 1};
        atoms_.push_back(make_atom(std::string(text.substr(at, end - at))));
        at = end;
      }
      element.spaced = spaced;
      spaced = false;
      compiled.push_back(element);
    }
    return compiled;
  }

  // Appends a sentence to out[used..limit); returns false (and leaves `used`) if it does not fit.
  bool append_sentence(const Template& sentence, bool paragraph_begins, Dice* dice, int32_t* out, int64_t* used, int64_t limit) const {
    int64_t at = *used;
    bool bare = paragraph_begins;
    for (const Element& element : sentence) {
      const Atom& atom = atoms_[element.first + (element.literal ? 0 : dice->below(element.count))];
      const bool space = element.spaced && !bare;
      bare = false;
      const int32_t* ids = pool_.data() + (space ? atom.spaced : atom.bare);
      const int64_t count = space ? atom.spaced_count : atom.bare_count;
      if (at + count > limit) return false;
      for (int64_t i = 0; i < count; ++i) out[at + i] = ids[i];
      at += count;
    }
    *used = at;
    return true;
  }

  void make_block(int64_t block, int32_t* out) const {
    Dice dice(stream_key({seed_, kProseStream, static_cast<uint64_t>(block)}));
    constexpr int64_t kLimit = kBlockTokens - 2;  // a block ends with at least a blank line
    int64_t used = 0;
    bool paragraph_begins = true, full = false;
    while (!full) {
      for (uint32_t left = 3 + dice.below(6); left > 0 && !full; --left) {
        const auto& sentence = sentences_[dice.below(static_cast<uint32_t>(sentences_.size()))];
        full = !append_sentence(sentence, paragraph_begins, &dice, out, &used, kLimit);
        paragraph_begins = false;
      }
      if (full || used + 2 > kLimit) break;
      out[used++] = line_end_[0];
      out[used++] = line_end_[0];
      paragraph_begins = true;
    }
    paragraph_begins = used > 0 && out[used - 1] == line_end_[0];
    for (int tries = 0; tries < 8; ++tries) {
      const auto& sentence = short_sentences_[dice.below(static_cast<uint32_t>(short_sentences_.size()))];
      if (append_sentence(sentence, paragraph_begins, &dice, out, &used, kLimit)) paragraph_begins = false;
    }
    std::fill(out + used, out + kBlockTokens, line_end_[0]);
  }

  std::shared_ptr<const Tokenizer> tokenizer_;
  uint64_t seed_;
  uint64_t identity_;  // of this object, for the threads' last blocks
  std::vector<int32_t> line_end_;
  std::vector<int32_t> pool_;  // ids of all atoms
  std::vector<Atom> atoms_;
  std::unordered_map<char, Element> slots_;
  std::vector<Template> sentences_, short_sentences_;
};

}  // namespace

std::shared_ptr<const TokenSource> make_prose_source(std::shared_ptr<const Tokenizer> tokenizer, uint64_t seed) {
  return std::make_shared<ProseSource>(std::move(tokenizer), seed);
}

}  // namespace cairn
