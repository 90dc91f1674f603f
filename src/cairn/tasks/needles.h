// What is hidden in a haystack and asked about, as token ids: key-value sentences and chains of assignments in RULER's words.
//
// Sentences are encoded in parts that no word piece crosses (a word with its leading space, one digit, a run of marks), each part once: a
// sentence is then a concatenation of table entries, and the answer's tokens are by construction the same ids as in the statement.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "cairn/core/random.h"
#include "cairn/text/tokenizer.h"

namespace cairn {

using Ids = std::vector<int32_t>;

// Where an answer token is stated: token `token` of statement `statement`; for chains also the token `key_end` of it, the last one of what
// the statement refers back to (the end of "VAR prev" in "VAR Y = VAR prev "). -1 = none.
struct Stated {
  int64_t statement = -1, token = -1, key_end = -1;
};

// A question with its answer.
struct Question {
  Ids ids;                              // question, then answer
  int64_t answer_begin = 0;             // ids[answer_begin ..] is the answer
  std::vector<Stated> stated;           // one entry an answer token
  std::vector<std::string> references;  // what the answer says, in order
  int64_t group = 0;                    // group of statements that it asks about
  uint64_t key = 0;                     // hash of the key that it asks for; 0 = none that another sequence could state, too
};

// Statements in groups whose inner order must be kept; statements are numbered through all groups.
struct Exercise {
  std::vector<std::vector<Ids>> groups;
  std::vector<Question> questions;  // in the order of asking
  int64_t tokens() const;           // of all statements and questions
  int64_t statement_tokens() const;
};

// Draws keys, names and values of one split; none is drawn twice in one sample (as long as the supply lasts).
class Draws {
 public:
  Draws(Random& random, bool held_out) : random_(random), held_out_(held_out) {}

  struct Key {
    int64_t first = 0, second = 0;  // numbers of words in adjectives() followed by nouns()
    std::string text() const;       // "first-second"
  };
  Key key();                   // half adjective-noun as RULER's, half any two different words
  int64_t number(int digits);  // uniform, no leading zero
  std::string name();          // five capital letters
  Random& random() { return random_; }

 private:
  bool fresh(uint64_t code, std::string_view text, int64_t tries);
  Random& random_;
  bool held_out_;
  std::unordered_set<uint64_t> taken_;
};

class NeedleMaker {
 public:
  explicit NeedleMaker(std::shared_ptr<const Tokenizer> tokenizer);

  // `keys` key-value sentences, each its own group, `asked` of them asked in random order.
  Exercise needles(Draws& draws, int64_t keys, int64_t asked) const;
  // `chains` chains of `links` assignments, each a group; one of them is asked.
  Exercise chains(Draws& draws, int64_t chains, int64_t links) const;

 private:
  struct Chain {
    std::vector<Ids> statements;
    std::vector<std::string> names;
    std::vector<Ids> name_ids;  // with leading space
    int64_t value = 0;
  };
  Ids encode(std::string_view text) const;  // by parts
  void append_key(const Draws::Key& key, Ids* out) const;
  void append_number(int64_t value, Ids* out) const;  // with leading space
  Chain chain(Draws& draws, int64_t links) const;
  Question chain_question(const Chain& chain, int64_t group, int64_t first_statement) const;

  std::shared_ptr<const Tokenizer> tokenizer_;
  std::vector<Ids> spaced_words_, dashed_words_;  // " word", "-word"
  Ids digits_[10], space_, period_;
  Ids statement_head_, statement_middle_, question_head_, question_middle_, question_end_;
  Ids var_, equals_var_, equals_, chain_head_, chain_middle_, chain_count_, chain_end_;
};

}  // namespace cairn
