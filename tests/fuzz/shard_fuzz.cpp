// TokenShard: the bytes as they are, and once more with right checksums, so that the checks behind them are reached.
#include <algorithm>

#include "cairn/text/shards.h"
#include "core/temp_folder.h"
#include "fuzz/fuzz.h"

namespace cairn::fuzz {
namespace {

void read_all(std::string_view bytes) {
  static MemoryFile memory;
  try {
    const TokenShard shard(memory.with(bytes));
    CAIRN_CHECK(shard.tokens() * 2 <= static_cast<int64_t>(bytes.size()), "{} tokens", shard.tokens());
    CAIRN_CHECK(shard.document_begin(0) == 0 && shard.document_begin(shard.documents()) == shard.tokens());
    for (int64_t document = 0; document < shard.documents(); ++document) {
      const int64_t begin = shard.document_begin(document), end = shard.document_begin(document + 1);
      CAIRN_CHECK(begin <= end && shard.document_begin_byte(document) <= shard.document_begin_byte(document + 1));
      if (begin < end) {
        const int64_t found = shard.document_of(begin);
        CAIRN_CHECK(shard.document_begin(found) <= begin && begin < shard.document_begin(found + 1));
      }
    }
    CAIRN_CHECK(shard.tokenizer_fingerprint().size() == 16);
    std::vector<int32_t> tokens(static_cast<size_t>(shard.tokens()));
    shard.read(0, tokens);
    for (const int32_t token : tokens) CAIRN_CHECK(token >= 0 && token < shard.vocab_size(), "token {}", token);
    shard.verify();
    ++accepted;
  } catch (const UserError&) {
  }
}

}  // namespace

std::vector<std::string> seeds() {
  TempFolder folder;
  std::vector<std::string> files;
  auto add = [&](const std::shared_ptr<const Tokenizer>& tokenizer, const std::string& text) {
    write_quickly(folder / "text", text);
    write_shard(*tokenizer, {.files = {folder / "text"}, .output = folder / "x", .threads = 1, .show_progress = false});
    files.push_back(read_file(folder / "x"));
  };
  add(make_bytes_tokenizer(), "One document.");
  add(make_bytes_tokenizer(), std::string("First.\0Second document.\0Third", 29));
  std::vector<std::string> many;  // more than 65,536 words: 4 bytes a token
  for (int i = 0; i < 70'000; ++i) many.push_back("w" + std::to_string(i));
  add(make_word_tokenizer(many), std::string("w1 w2 w69999\0w5", 15));
  return files;
}

std::vector<std::string> words() {
  return {"CAIRNTOK",           std::string("\1\0\0\0\2\0\0\0", 8), std::string("\1\0\0\0\4\0\0\0", 8), std::string(8, '\xff'),
          std::string(8, '\0'), std::string("\0\0\0\0\1\0\0\0", 8)};
}

}  // namespace cairn::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace cairn;
  using namespace cairn::fuzz;
  std::string bytes(reinterpret_cast<const char*>(data), size);
  read_all(bytes);
  if (size >= 128) {
    // Offsets as in docs/formats.md.
    const std::string_view view = bytes;
    const uint64_t table = std::min<uint64_t>(get<uint64_t>(view, 72), size);
    if (table >= 128) put(&bytes, 80, hash_bytes(view.substr(128, table - 128)));
    put(&bytes, 88, hash_bytes(view.substr(table)));
    put(&bytes, 120, hash_bytes(view.substr(0, 120)));
    read_all(bytes);
  }
  return 0;
}
