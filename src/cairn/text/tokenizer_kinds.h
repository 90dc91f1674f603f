// The kinds of tokenizer behind parse_tokenizer(); private to the room.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "cairn/text/tokenizer.h"

namespace cairn {

inline constexpr std::string_view kWordsHeader = "cairn-words 1\n";
inline constexpr std::string_view kBytesHeader = "cairn-bytes 1\n";

std::shared_ptr<const Tokenizer> parse_word_tokenizer(std::string_view bytes, const std::string& source);
std::shared_ptr<const Tokenizer> parse_sentencepiece_tokenizer(std::string_view bytes, const std::string& source);

}  // namespace cairn
