// Changing a text that has been read: only the chunks that can feel the change are encoded again (docs/algorithm.md section 4, points 3 and
// 4). Positions are tokens from the begin of the text. All of it equals a fresh read of the changed text up to rounding.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "cairn/infer/memory_file.h"
#include "cairn/infer/reader.h"

namespace cairn {

// Chunks at .. at + removed of the memory before became at .. at + added: what a file must replace.
struct ChunkChange {
  int64_t at = 0, removed = 0, added = 0;
  bool end_changed = false;  // state and tokens behind the last complete chunk
};

// Tokens begin .. begin + ids.size() become `ids`. UserError: outside of the text, no ids, ids outside of the vocabulary.
ChunkChange overwrite_tokens(const Reader& reader, TextMemory& text, int64_t begin, std::span<const int32_t> ids);

// `ids` in front of token `begin`; and tokens begin .. begin + count away. Both on the chunk grid: begin and the number of tokens are
// multiples of the chunk, so that every later chunk keeps its place on the grid (UserError otherwise, with the nearest numbers).
ChunkChange insert_tokens(const Reader& reader, TextMemory& text, int64_t begin, std::span<const int32_t> ids);
ChunkChange delete_tokens(const Reader& reader, TextMemory& text, int64_t begin, int64_t count);

// The text of `first` followed by that of `second`; the memories' storage is shared. Where the first does not end on the chunk grid it is
// filled up with pad tokens (id 0), which are text to the model: *padding says how many.
TextMemory join_texts(const Reader& reader, const TextMemory& first, const TextMemory& second, int64_t* padding);

// Brings a change of `text` (loaded from the file's memory) into the file, in one commit. UserError while a reading is in progress there.
void commit_change(MemoryFile& file, const TextMemory& text, const ChunkChange& change);

// Writes a whole text as a new file, in one commit.
void save_memory(const fs::path& path, const MemoryMaker& maker, const TextMemory& text);

}  // namespace cairn
