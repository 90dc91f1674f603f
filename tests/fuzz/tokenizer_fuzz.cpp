// parse_tokenizer(): SentencePiece models, word lists, bytes. A tokenizer that is accepted keeps its contract: texts come back exactly.
#include <algorithm>

#include "cairn/text/tokenizer.h"
#include "fuzz/fuzz.h"

namespace cairn::fuzz {
namespace {

// Messages of the wire format of protobuf.
std::string varint(uint64_t value) {
  std::string bytes;
  for (; value >= 128; value >>= 7) bytes += static_cast<char>(value | 128);
  return bytes + static_cast<char>(value);
}
std::string field(uint64_t id, uint64_t value) { return varint(id << 3) + varint(value); }
std::string field(uint64_t id, const std::string& bytes) { return varint(id << 3 | 2) + varint(bytes.size()) + bytes; }
std::string piece(const std::string& text, float score, uint64_t type) {
  std::string number(4, '\0');
  put(&number, 0, score);
  return field(1, field(1, text) + varint(2 << 3 | 5) + number + field(3, type));
}

std::string model(const std::vector<std::string>& pieces) {
  std::string bytes = piece("<pad>", 0, 3) + piece("<unk>", 0, 2);
  for (int i = 0; i < 256; ++i) bytes += piece(fmt::format("<0x{:02X}>", i), 0, 6);
  float score = 0;
  for (const std::string& text : pieces) bytes += piece(text, score -= 1, 1);
  return bytes + field(2, field(3, uint64_t{2}) + field(35, uint64_t{1})) +
         field(3, field(1, std::string("identity")) + field(3, uint64_t{0}) + field(4, uint64_t{0}) + field(5, uint64_t{1}));
}

void use(const Tokenizer& tokenizer) {
  const int32_t vocab = tokenizer.vocab_size();
  std::string pieces;
  for (int32_t id = 0; id < std::min(vocab, 400); ++id) pieces += tokenizer.decode_one(id);
  CAIRN_CHECK(tokenizer.fingerprint().size() == 16);
  // What it serialises reads back as the same.
  CAIRN_CHECK(parse_tokenizer(tokenizer.serialized(), "again")->fingerprint() == tokenizer.fingerprint());
  const std::string texts[] = {"",           " ",   "the cat  sat\n\ton 1234 mats", "\xE2\x96\x81 \xC3\xA9t\xC3\xA9 \xE6\x97\xA5",
                               "<unk><pad>", pieces};
  for (const std::string& text : texts) {
    std::vector<int32_t> ids;
    try {
      ids = tokenizer.encode(text);
    } catch (const UserError&) {
      CAIRN_CHECK(tokenizer.kind() == "words" || text == pieces, "'{}' is not encoded", text);  // unknown words; pieces need not be UTF-8
      continue;
    }
    for (const int32_t id : ids) CAIRN_CHECK(id >= 0 && id < vocab, "id {} of {}", id, vocab);
    const std::string back = tokenizer.decode(ids);
    CAIRN_CHECK(back == text, "'{}' came back as '{}'", text, back);
    for (int64_t at = tokenizer.cut_before(text, static_cast<int64_t>(text.size()) / 2); at > 0; at = -1) {
      auto parts = tokenizer.encode(text.substr(0, static_cast<size_t>(at)));
      const auto rest = tokenizer.encode(text.substr(static_cast<size_t>(at)));
      parts.insert(parts.end(), rest.begin(), rest.end());
      CAIRN_CHECK(parts == ids, "'{}' cut at {} is encoded otherwise", text, at);
    }
  }
}

}  // namespace

std::vector<std::string> seeds() {
  const std::string space = "\xE2\x96\x81";
  return {
      model({space}),
      model({space, "b", "ba"}) + piece("<sep>", 0, 4) + piece("never", -1, 5),
      model({"th", "the", "at", space + "c", space + "cat", "s", "a", "t", "h", "e", "\xC3\xA9", "\xE6\x97\xA5", space}),
      "cairn-bytes 1\n",
      "cairn-words 1\n",
      "cairn-words 1\nthe\ncat\n\xC3\xA9t\xC3\xA9\n",
  };
}

std::vector<std::string> words() {
  std::vector<std::string> list = {
      "cairn-words 1\n",    "cairn-bytes 1\n",        "cairn-words 2\n", "<pad>\n", "\n", "\xE2\x96\x81", "\xC3\xA9", "\xff",
      varint(~uint64_t{0}), varint(uint64_t{1} << 32)};
  for (uint64_t type = 1; type <= 7; ++type) list.push_back(piece("ab", 1, type));
  list.push_back(piece(" ", 0, 1));
  list.push_back(piece("a b", 0, 4));
  list.push_back(piece("<0x41>", 0, 6));
  return list;
}

}  // namespace cairn::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace cairn;
  try {
    fuzz::use(*parse_tokenizer({reinterpret_cast<const char*>(data), size}, "input"));
    ++fuzz::accepted;
  } catch (const UserError&) {
  }
  return 0;
}
