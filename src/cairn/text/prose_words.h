// Word lists and sentence templates of the generated prose; private to the room. Written for Cairn.
//
// Templates: words and punctuation, with slots
//   $N name   $n thing   $s things (plural)   $a adjective   $t transitive verb (past)   $i intransitive verb (past)   $d adverb
//   $w person's role   $P place   $r preposition of place   $c number word   $q opening phrase (capitalised, no comma)   $u material
#pragma once

#include <span>
#include <string_view>

namespace cairn::prose {

std::string_view names();   // lists: words separated by '|'
std::string_view things();  // plurals are regular
std::string_view adjectives();
std::string_view transitive_verbs();
std::string_view intransitive_verbs();
std::string_view adverbs();
std::string_view roles();
std::string_view places();
std::string_view prepositions();
std::string_view numbers();
std::string_view openings();
std::string_view materials();

std::span<const std::string_view> sentences();        // templates of ordinary length
std::span<const std::string_view> short_sentences();  // fill the end of a block

}  // namespace cairn::prose
