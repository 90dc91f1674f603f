#include "cairn/infer/text_view.h"

#include <algorithm>
#include <iterator>

#include "cairn/core/error.h"
#include "cairn/text/utf8.h"

namespace cairn {

TextView::TextView(const TextMemory& text, const Tokenizer& tokenizer) : text_(text), tokenizer_(tokenizer) {
  const int32_t between = tokenizer.kind() == "words" ? 1 : 0;  // whole words are joined by spaces
  length_.resize(tokenizer.vocab_size());
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) length_[id] = static_cast<int32_t>(tokenizer.decode_one(id).size()) + between;
}

std::string TextView::text(int64_t begin, int64_t end) const {
  std::vector<int32_t> ids(end - begin);
  text_.tokens.read(begin, ids);
  for (const int32_t id : ids) {
    if (id < 0 || id >= tokenizer_.vocab_size())
      throw UserError("the memory holds token id {}, which the tokenizer does not know: it is damaged", id);
  }
  return repair_utf8(tokenizer_.decode(ids));
}

int64_t TextView::bytes(int64_t begin, int64_t end) const {
  constexpr int64_t kBlock = 65536;
  int64_t total = 0;
  std::vector<int32_t> ids;
  for (int64_t at = begin; at < end; at += kBlock) {
    ids.resize(std::min(kBlock, end - at));
    text_.tokens.read(at, ids);
    for (const int32_t id : ids) total += id >= 0 && id < std::ssize(length_) ? length_[id] : 0;
  }
  return total;
}

int64_t TextView::document_end(int64_t document) const {
  return document + 1 < std::ssize(text_.documents) ? text_.documents[document + 1].token : text_.tokens.size();
}

}  // namespace cairn
