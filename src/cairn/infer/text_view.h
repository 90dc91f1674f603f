// Where tokens of a remembered text stand in its documents, and what they say.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cairn/infer/memory_file.h"
#include "cairn/text/tokenizer.h"

namespace cairn {

// Both must outlive the view.
class TextView {
 public:
  TextView(const TextMemory& text, const Tokenizer& tokenizer);

  // Tokens begin .. end as text, malformed UTF-8 (a character that the cut goes through) replaced by U+FFFD.
  std::string text(int64_t begin, int64_t end) const;
  // Bytes of text of tokens begin .. end.
  int64_t bytes(int64_t begin, int64_t end) const;
  int64_t document_end(int64_t document) const;  // token behind its last one

 private:
  const TextMemory& text_;
  const Tokenizer& tokenizer_;
  std::vector<int32_t> length_;  // bytes by id
};

}  // namespace cairn
