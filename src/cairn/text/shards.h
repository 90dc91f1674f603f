// Token shards: a text corpus as token ids, mapped from disk. Format byte by byte in docs/formats.md: magic, version, tokenizer fingerprint, token width
// (2 or 4 bytes), document offsets (tokens and bytes), checksums. The reader checks every size before use.
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
  std::string tokenizer_fingerprint() const;
  void read(int64_t begin, std::span<int32_t> out) const;
  void verify() const;                                   // whole-file checksum; UserError if it disagrees

 private:
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

struct ShardWriting {
  std::vector<fs::path> files;    // text files; documents are separated by NUL bytes, each file ends a document
  fs::path output;
  int threads = 0;                // 0 = all cores
  bool show_progress = true;
};
// Returns the number of tokens written.
int64_t write_shard(const Tokenizer& tokenizer, const ShardWriting& options);

}  // namespace cairn
