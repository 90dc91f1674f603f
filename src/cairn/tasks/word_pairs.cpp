#include "cairn/tasks/word_pairs.h"

#include <algorithm>
#include <array>
#include <iterator>

#include "cairn/core/error.h"
#include "cairn/core/files.h"
#include "cairn/tasks/haystack.h"
#include "cairn/tasks/weave.h"
#include "cairn/tasks/words.h"

namespace cairn {
namespace {

constexpr std::string_view kMarks[] = {"is", "ask"};
constexpr int32_t kIs = 1, kAsk = 2, kFirstFiller = 3;
constexpr std::string_view kFillers[] = {"and",    "then", "some",  "very", "with", "from",   "into", "over",  "under", "again", "here",
                                         "there",  "soon", "often", "only", "just", "still",  "also", "while", "when",  "where", "after",
                                         "before", "near", "far",   "up",   "off",  "around", "once", "now",   "yet",   "so"};
constexpr int32_t kFillerCount = static_cast<int32_t>(std::size(kFillers)), kFirstWord = kFirstFiller + kFillerCount;
constexpr std::string_view kPairWords[] = {
    "amber",  "anchor", "apple",  "arrow",   "bacon",  "badge",  "baker",  "bamboo", "banjo",  "basil",  "beach",   "berry",  "birch",
    "bishop", "bread",  "brick",  "bridge",  "brook",  "bucket", "butter", "cactus", "camel",  "candle", "canoe",   "carpet", "castle",
    "cedar",  "cello",  "chalk",  "cherry",  "clock",  "cloud",  "clover", "comet",  "copper", "coral",  "cotton",  "crane",  "cream",
    "crown",  "daisy",  "desert", "dolphin", "donkey", "dragon", "eagle",  "ember",  "engine", "falcon", "feather", "fern",   "flame",
    "flute",  "forest", "fossil", "garden",  "ginger", "glove",  "grape",  "guitar", "hammer", "harbor", "hazel",   "helmet", "heron",
    "honey",  "island", "ivory",  "jacket",  "jasper", "jungle", "kettle", "kitten", "ladder", "lagoon", "lemon",   "lily",   "linen",
    "lizard", "magnet", "mango",  "maple",   "marble", "meadow", "mirror", "monkey", "moss",   "nectar", "needle",  "nickel", "oak",
    "oasis",  "ocean",  "olive",  "onion",   "orchid", "otter",  "paddle", "panda",  "parrot", "pearl",  "pebble",  "pepper", "piano",
    "pillow", "planet", "plum",   "pony",    "prism",  "quartz", "rabbit", "raven",  "ribbon", "river",  "robin",   "saddle", "salmon",
    "shell",  "silver", "spider", "thunder", "tiger",  "tulip",  "tunnel", "velvet", "violet", "walnut", "willow"};
static_assert(std::size(kPairWords) == WordPairs::kWords);

int32_t word_id(int64_t index) { return kFirstWord + static_cast<int32_t>(index); }
int32_t filler(Random& random) { return kFirstFiller + static_cast<int32_t>(random.below(kFillerCount)); }

Ids statement(int64_t key, int64_t value) { return {word_id(key), kIs, word_id(value)}; }
constexpr int64_t kValueToken = 2;  // of a statement

Question question(int64_t key, int64_t value) {
  Question result;
  result.ids = {kAsk, word_id(key), word_id(value)};
  result.key = hash_bytes(WordPairs::word(key));
  result.answer_begin = 2;
  result.references = {std::string(WordPairs::word(value))};
  return result;
}

int64_t any_value(Random& random) { return WordPairs::kKeys + random.below(WordPairs::kWords - WordPairs::kKeys); }

// A value that training may show with `key`.
int64_t draw_value(Random& random, int64_t key) {
  for (;;) {
    const int64_t value = any_value(random);
    if (!WordPairs::held_out(key, value)) return value;
  }
}

class Rivals : public TokenSource {
 public:
  Rivals(uint64_t key, int64_t needles, int64_t excluded) : key_(key), needles_(needles), excluded_(excluded) {}
  int64_t size() const override { return kUnlimited; }
  std::string name() const override { return "rivals"; }

  void read(int64_t begin, std::span<int32_t> out) const override {
    CAIRN_CHECK(begin >= 0 && begin <= kUnlimited - std::ssize(out), "tokens {} + {}", begin, out.size());
    std::array<int32_t, WordPairs::kBlock> block;
    for (int64_t done = 0; done < std::ssize(out);) {
      const int64_t number = (begin + done) / WordPairs::kBlock, offset = (begin + done) % WordPairs::kBlock;
      const int64_t n = std::min(WordPairs::kBlock - offset, std::ssize(out) - done);
      make_block(number, &block);
      std::copy_n(block.begin() + offset, n, out.begin() + done);
      done += n;
    }
  }

 private:
  // A pure function of (key, number): fillers, and over them the block's rivals, none cut by the block's ends.
  void make_block(int64_t number, std::array<int32_t, WordPairs::kBlock>* block) const {
    Random random(stream_key({key_, static_cast<uint64_t>(number)}));
    for (int32_t& token : *block) token = filler(random);
    std::array<int64_t, WordPairs::kMaximumNeedles> places;
    for (int64_t i = 0; i < needles_; ++i) places[i] = random.below(WordPairs::kBlock - needles_ * WordPairs::kStatement + 1);
    std::sort(places.begin(), places.begin() + needles_);
    for (int64_t i = 0; i < needles_; ++i) {
      int64_t key = random.below(WordPairs::kKeys - 1);
      if (key >= excluded_) ++key;
      const Ids ids = statement(key, any_value(random));
      std::copy(ids.begin(), ids.end(), block->begin() + places[i] + i * WordPairs::kStatement);
    }
  }
  uint64_t key_;
  int64_t needles_, excluded_;
};

}  // namespace

std::vector<std::string> WordPairs::vocabulary() {
  std::vector<std::string> words;
  for (const auto list : {std::span<const std::string_view>(kMarks), std::span<const std::string_view>(kFillers),
                          std::span<const std::string_view>(kPairWords)}) {
    words.insert(words.end(), list.begin(), list.end());
  }
  return words;
}

std::string_view WordPairs::word(int64_t index) { return kPairWords[index]; }
bool WordPairs::is_filler(int32_t id) { return id >= kFirstFiller && id < kFirstWord; }

bool WordPairs::held_out(int64_t key, int64_t value) {
  static const std::vector<uint8_t> table = [] {
    std::vector<uint8_t> made(kWords * kWords);
    for (int64_t i = 0; i < kWords * kWords; ++i)
      made[i] = is_held_out(std::string(word(i / kWords)) + ' ' + std::string(word(i % kWords)));
    return made;
  }();
  return table[key * kWords + value] != 0;
}

std::shared_ptr<const TokenSource> WordPairs::rivals(uint64_t key, int64_t needles, int64_t excluded) {
  CAIRN_CHECK(needles >= 0 && needles <= kMaximumNeedles && excluded >= 0 && excluded < kKeys, "{} needles, key {}", needles, excluded);
  return std::make_shared<Rivals>(key, needles, excluded);
}

void WordPairs::training_sample(Random& random, int64_t length, double answer_weight, Sample* sample) const {
  const int64_t needed = needles_ * (kStatement + kQuestion) - 1;
  if (length < needed) {
    throw UserError(
        "word_pairs with pair_needles {} needs a training length of at least {} tokens, not {}; use longer sequences or fewer needles",
        needles_, needed, length);
  }
  Weaver weaver;
  std::vector<Question> last;
  const std::vector<int64_t> keys = random.choose(kKeys, needles_);
  for (int64_t i = 0; i < needles_; ++i) {
    const int64_t value = draw_value(random, keys[i]);
    Question asked = question(keys[i], value);
    asked.stated = {{i, kValueToken, -1}};
    const double place = random.uniform();
    weaver.add_statement(place, statement(keys[i], value));
    // A quarter of the questions stand close behind their statement, which is then often not yet in a complete chunk: window attention must
    // learn to answer those. A quarter stand anywhere behind it, half at the end.
    const double kind = random.uniform();
    if (kind < 0.5) {
      const double behind = (kind < 0.25 ? 0.15 : 1.0) * random.uniform();
      weaver.add_question(place + (1 - place) * behind, std::move(asked), 0);
    } else {
      last.push_back(std::move(asked));
    }
  }
  random.shuffle(last);
  for (size_t i = 0; i < last.size(); ++i) weaver.add_question(1.0 + static_cast<double>(i), std::move(last[i]), 0);
  weaver.weave(
      length, answer_weight,
      [&random](std::span<int32_t> out) {
        for (int32_t& token : out) token = filler(random);
      },
      sample);
}

void WordPairs::eval_sample(Random& random, int64_t stratum, int64_t strata, int64_t length, std::shared_ptr<const TokenSource> haystack,
                            EvalSample* sample) const {
  const int64_t room = length - kQuestion;
  if (room < kStatement) throw UserError("word_pairs needs a length of at least {} tokens, not {}", kStatement + kQuestion, length);
  // Both drawn until the pair is held out: some keys have no held-out value at all.
  int64_t key = 0, value = 0;
  do {
    key = random.below(kKeys);
    value = any_value(random);
  } while (!held_out(key, value));
  Question asked = question(key, value);
  const uint64_t haystack_key = random.next();
  sample->length = length;
  const bool own = haystack == nullptr;
  sample->haystack = own ? rivals(haystack_key, needles_, key) : std::move(haystack);
  sample->haystack_begin = haystack_window(random, *sample->haystack, room, "word_pairs");

  // The needle takes the place of fillers, as in training: a rival cut in two would be a form that training never shows.
  int64_t position = 0;
  std::array<int32_t, kStatement> covered;
  for (int tries = 0; tries < 1000; ++tries) {
    const double u = (static_cast<double>(stratum) + random.uniform()) / static_cast<double>(strata);
    position = std::min(room - kStatement, static_cast<int64_t>(u * static_cast<double>(room - kStatement + 1)));
    sample->haystack->read(sample->haystack_begin + position, covered);
    if (std::all_of(covered.begin(), covered.end(), is_filler)) break;
  }
  sample->edits = {{position, statement(key, value)}};
  sample->tail = asked.ids;
  EvalAnswer answer;
  answer.begin = asked.answer_begin;
  answer.end = kQuestion;
  answer.reference = asked.references[0];
  answer.source = {{position + kValueToken, -1}};
  sample->answers = {std::move(answer)};
  sample->depth = static_cast<double>(position) / static_cast<double>(length);
}

}  // namespace cairn
