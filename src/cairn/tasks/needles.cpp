#include "cairn/tasks/needles.h"

#include <algorithm>
#include <cctype>
#include <iterator>

#include "cairn/core/error.h"
#include "cairn/core/files.h"
#include "cairn/tasks/words.h"

namespace cairn {
namespace {

void append(const Ids& part, Ids* out) { out->insert(out->end(), part.begin(), part.end()); }

std::string_view word(int64_t number) {
  const auto adjective_count = static_cast<int64_t>(adjectives().size());
  return number < adjective_count ? adjectives()[number] : nouns()[number - adjective_count];
}

// Length of the part that begins at `text[0]`: " ?letters", one digit, " ?marks" or a lone space.
size_t part_length(std::string_view text) {
  const auto is_letter = [](char c) { return std::isalpha(static_cast<unsigned char>(c)) != 0; };
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  const auto is_mark = [&](char c) { return c != ' ' && !is_letter(c) && !is_digit(c); };
  if (is_digit(text[0])) return 1;
  const size_t first = text[0] == ' ' ? 1 : 0;
  size_t end = first;
  while (end < text.size() && is_letter(text[end])) ++end;
  if (end > first) return end;
  while (end < text.size() && is_mark(text[end])) ++end;
  return std::max<size_t>(end, 1);
}

}  // namespace

int64_t Exercise::statement_tokens() const {
  int64_t total = 0;
  for (const auto& group : groups) {
    for (const Ids& statement : group) total += std::ssize(statement);
  }
  return total;
}

int64_t Exercise::tokens() const {
  int64_t total = statement_tokens();
  for (const Question& question : questions) total += std::ssize(question.ids);
  return total;
}

std::string Draws::Key::text() const {
  std::string result(word(first));
  result += '-';
  result += word(second);
  return result;
}

// The split is strict; being new in the sample is given up after many tries, so that a sample of any length can be filled.
bool Draws::fresh(uint64_t code, std::string_view text, int64_t tries) {
  if (is_held_out(text) != held_out_) return false;
  return taken_.insert(code).second || tries > 4096;
}

Draws::Key Draws::key() {
  const auto adjective_count = static_cast<int64_t>(adjectives().size()), noun_count = static_cast<int64_t>(nouns().size());
  const int64_t words = adjective_count + noun_count;
  for (int64_t tries = 0;; ++tries) {
    Key key;
    if (random_.chance(0.5)) {
      key = {random_.below(adjective_count), adjective_count + random_.below(noun_count)};
    } else {
      key = {random_.below(words), random_.below(words)};
    }
    if (key.first != key.second && fresh((uint64_t{1} << 60) + key.first * words + key.second, key.text(), tries)) return key;
  }
}

int64_t Draws::number(int digits) {
  int64_t low = 1;
  for (int i = 1; i < digits; ++i) low *= 10;
  for (int64_t tries = 0;; ++tries) {
    const int64_t value = low + random_.below(9 * low);
    if (fresh((uint64_t{2} << 60) + value, std::to_string(value), tries)) return value;
  }
}

std::string Draws::name() {
  for (int64_t tries = 0;; ++tries) {
    const int64_t code = random_.below(26 * 26 * 26 * 26 * 26);
    std::string name(5, 'A');
    int64_t rest = code;
    for (char& letter : name) {
      letter = static_cast<char>('A' + rest % 26);
      rest /= 26;
    }
    if (fresh((uint64_t{3} << 60) + code, name, tries)) return name;
  }
}

NeedleMaker::NeedleMaker(std::shared_ptr<const Tokenizer> tokenizer) : tokenizer_(std::move(tokenizer)) {
  CAIRN_CHECK(tokenizer_ != nullptr);
  for (const auto words : {adjectives(), nouns()}) {
    for (const std::string_view w : words) {
      spaced_words_.push_back(encode(" " + std::string(w)));
      dashed_words_.push_back(encode("-" + std::string(w)));
    }
  }
  for (int d = 0; d < 10; ++d) digits_[d] = encode(std::string(1, static_cast<char>('0' + d)));
  space_ = encode(" ");
  period_ = encode(".");
  statement_head_ = encode(" One of the special magic numbers for");
  statement_middle_ = encode(" is:");
  question_head_ = encode(" What is the special magic number for");
  question_middle_ = encode(" mentioned in the provided text? The special magic number for");
  question_end_ = encode(" mentioned in the provided text is");
  var_ = encode(" VAR");
  equals_ = encode(" =");
  equals_var_ = encode(" = VAR");
  chain_head_ = encode(" Question: Find all variables that are assigned the value");
  chain_middle_ = encode(" in the text above. Answer: According to the chain(s) of variable assignment in the text above,");
  chain_count_ = encode(" variables are assigned the value");
  chain_end_ = encode(", they are:");
}

Ids NeedleMaker::encode(std::string_view text) const {
  Ids result;
  while (!text.empty()) {
    const size_t n = part_length(text);
    append(tokenizer_->encode(text.substr(0, n)), &result);
    text.remove_prefix(n);
  }
  return result;
}

void NeedleMaker::append_key(const Draws::Key& key, Ids* out) const {
  append(spaced_words_[key.first], out);
  append(dashed_words_[key.second], out);
}

void NeedleMaker::append_number(int64_t value, Ids* out) const {
  append(space_, out);
  char digits[20];
  int n = 0;
  for (; value > 0; value /= 10) digits[n++] = static_cast<char>(value % 10);
  while (n > 0) append(digits_[static_cast<int>(digits[--n])], out);
}

Exercise NeedleMaker::needles(Draws& draws, int64_t keys, int64_t asked) const {
  CAIRN_CHECK(asked >= 1 && asked <= keys, "{} of {}", asked, keys);
  Exercise exercise;
  std::vector<Draws::Key> key_list;
  std::vector<int64_t> values;
  for (int64_t i = 0; i < keys; ++i) {
    key_list.push_back(draws.key());
    values.push_back(draws.number(7));
    Ids statement = statement_head_;
    append_key(key_list[i], &statement);
    append(statement_middle_, &statement);
    append_number(values[i], &statement);
    append(period_, &statement);
    exercise.groups.push_back({std::move(statement)});
  }
  for (const int64_t i : draws.random().choose(keys, asked)) {
    Question question;
    question.group = i;
    question.key = hash_bytes(key_list[i].text());
    question.ids = question_head_;
    append_key(key_list[i], &question.ids);
    append(question_middle_, &question.ids);
    append_key(key_list[i], &question.ids);
    append(question_end_, &question.ids);
    question.answer_begin = std::ssize(question.ids);
    append_number(values[i], &question.ids);
    append(period_, &question.ids);
    // The statement ends with the very tokens of the answer.
    const int64_t answer = std::ssize(question.ids) - question.answer_begin, statement = std::ssize(exercise.groups[i][0]);
    for (int64_t j = 0; j < answer; ++j) question.stated.push_back({i, statement - answer + j, -1});
    question.references = {std::to_string(values[i])};
    exercise.questions.push_back(std::move(question));
  }
  return exercise;
}

NeedleMaker::Chain NeedleMaker::chain(Draws& draws, int64_t links) const {
  Chain chain;
  chain.value = draws.number(5);
  for (int64_t i = 0; i < links; ++i) {
    chain.names.push_back(draws.name());
    chain.name_ids.push_back(encode(" " + chain.names[i]));
    Ids statement = var_;
    append(chain.name_ids[i], &statement);
    if (i == 0) {
      append(equals_, &statement);
      append_number(chain.value, &statement);
    } else {
      append(equals_var_, &statement);
      append(chain.name_ids[i - 1], &statement);
    }
    append(space_, &statement);
    chain.statements.push_back(std::move(statement));
  }
  return chain;
}

Question NeedleMaker::chain_question(const Chain& chain, int64_t group, int64_t first_statement) const {
  Question question;
  question.group = group;
  question.ids = chain_head_;
  append_number(chain.value, &question.ids);
  append(chain_middle_, &question.ids);
  append_number(std::ssize(chain.names), &question.ids);
  append(chain_count_, &question.ids);
  append_number(chain.value, &question.ids);
  append(chain_end_, &question.ids);
  question.answer_begin = std::ssize(question.ids);
  for (int64_t i = 0; i < std::ssize(chain.names); ++i) {
    append(chain.name_ids[i], &question.ids);
    const int64_t key_end = std::ssize(chain.statements[i]) - std::ssize(space_) - 1;
    for (int64_t j = 0; j < std::ssize(chain.name_ids[i]); ++j) {
      question.stated.push_back({first_statement + i, std::ssize(var_) + j, key_end});
    }
  }
  append(period_, &question.ids);
  question.stated.resize(question.ids.size() - question.answer_begin);  // the period is stated nowhere
  question.references = chain.names;
  return question;
}

Exercise NeedleMaker::chains(Draws& draws, int64_t chains, int64_t links) const {
  Exercise exercise;
  const int64_t asked = draws.random().below(chains);
  for (int64_t g = 0; g < chains; ++g) {
    Chain made = chain(draws, links);
    if (g == asked) exercise.questions.push_back(chain_question(made, g, g * links));
    exercise.groups.push_back(std::move(made.statements));
  }
  return exercise;
}

}  // namespace cairn
