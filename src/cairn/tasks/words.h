// Word lists of our own: short common English words for the keys of needles, and the small vocabulary of word_pairs.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace cairn {

std::span<const std::string_view> adjectives();  // 243
std::span<const std::string_view> nouns();  // 440; none is an adjective of the list, so that a word has one number in both lists together

// True for strings that only evaluation may use as a key, a name or a value: hash_bytes(text) mod 16 == 0.
bool is_held_out(std::string_view text);

}  // namespace cairn
