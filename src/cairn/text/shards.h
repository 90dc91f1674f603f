// Token shards: a text corpus as token ids, mapped from disk. Format byte by byte in docs/formats.md: magic, version, tokenizer
// fingerprint, token width (2 or 4 bytes), document offsets (tokens and bytes), checksums. The reader checks every size before use.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cairn/core/files.h"
#include "cairn/text/tokenizer.h"

namespace cairn {

class TokenShard {
 public:
  explicit TokenShard(const fs::path& path);  // UserError: missing, truncated, corrupted, wrong version
  int64_t tokens() const;
  int64_t documents() const;
  int64_t document_begin(int64_t document) const;       // first token; document == documents(): tokens()
  int64_t document_begin_byte(int64_t document) const;  // the same, counted in bytes of text (NUL separators not counted)
  int64_t document_of(int64_t token) const;             // the document that holds the token
  int64_t text_bytes() const;                           // of all documents
  int64_t vocab_size() const;                           // of the tokenizer that wrote it
  std::string tokenizer_fingerprint() const;
  const fs::path& path() const;
  // A range outside 0..tokens() is a bug; a token id outside the vocabulary is a UserError (the file is corrupted).
  void read(int64_t begin, std::span<int32_t> out) const;
  void verify() const;  // checksum of the tokens, every id; UserError if something disagrees

 private:
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

struct ShardWriting {
  std::vector<fs::path> files;  // text files ("-": standard input); documents are separated by NUL bytes, each file ends a document
  fs::path output;
  int threads = 0;  // 0 = all cores
  bool show_progress = true;
};
// Streams the files into a shard that appears whole or not at all; memory is bounded. Empty documents are left out. Returns the number of
// tokens written. UserError: missing or unreadable files, no text at all, text that is not UTF-8 (with file and byte offset).
// ResourceError: no space on the disk.
int64_t write_shard(const Tokenizer& tokenizer, const ShardWriting& options);

}  // namespace cairn
