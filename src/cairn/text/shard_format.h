// The header of a token shard as it lies in the file (docs/formats.md); private to the room. Little-endian machines only, like the rest of
// Cairn's files.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace cairn {

static_assert(std::endian::native == std::endian::little);

inline constexpr char kShardMagic[8] = {'C', 'A', 'I', 'R', 'N', 'T', 'O', 'K'};
inline constexpr uint32_t kShardVersion = 1;

struct ShardHeader {
  char magic[8];
  uint32_t version;
  uint32_t width;        // bytes a token: 2 or 4
  char fingerprint[16];  // hexadecimal digits of the tokenizer's
  uint64_t vocab_size;   // every token is below
  uint64_t tokens, documents;
  uint64_t text_bytes;       // of all documents
  uint64_t tokens_offset;    // = sizeof(ShardHeader)
  uint64_t table_offset;     // = tokens_offset + tokens * width, rounded up to 8
  uint64_t tokens_checksum;  // XXH3-64 of the bytes tokens_offset .. table_offset
  uint64_t table_checksum;   // XXH3-64 of the table
  uint64_t reserved[3];      // 0
  uint64_t header_checksum;  // XXH3-64 of the 120 bytes before
};
static_assert(sizeof(ShardHeader) == 128 && offsetof(ShardHeader, header_checksum) == 120);

// The table: documents + 1 rows, the last one holds the totals.
struct ShardRow {
  uint64_t token, byte;  // where the document begins, counted in tokens and in bytes of text
};
static_assert(sizeof(ShardRow) == 16);

}  // namespace cairn
