#include "cairn/text/shards.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "cairn/core/error.h"
#include "cairn/text/shard_format.h"
#include "cairn/text/utf8.h"

namespace cairn {

struct TokenShard::Impl {
  explicit Impl(const fs::path& file_path) : path(file_path), file(file_path) {}
  fs::path path;
  MappedFile file;
  ShardHeader header = {};

  ShardRow row(int64_t document) const {
    ShardRow row;
    std::memcpy(&row, file.bytes().data() + header.table_offset + document * sizeof(ShardRow), sizeof(row));
    return row;
  }
  [[noreturn]] void corrupted(const std::string& what) const {
    throw UserError("token shard {}: {}; the file is cut off or corrupted: write it again with `cairn shard`", path.string(), what);
  }
  void check_header();
  void check_table() const;
};

void TokenShard::Impl::check_header() {
  const auto bytes = file.bytes();
  if (bytes.size() < sizeof(kShardMagic) || std::memcmp(bytes.data(), kShardMagic, sizeof(kShardMagic)) != 0)
    throw UserError("{} is not a token shard (it does not begin with CAIRNTOK); make one with `cairn shard`", path.string());
  if (bytes.size() < sizeof(ShardHeader)) corrupted("it ends within its header");
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (header.version != kShardVersion)
    throw UserError("token shard {}: version {}, this program reads version {}; write it again with `cairn shard`", path.string(),
                    header.version, kShardVersion);
  if (header.header_checksum != hash_bytes({reinterpret_cast<const char*>(bytes.data()), offsetof(ShardHeader, header_checksum)}))
    corrupted("the checksum of its header disagrees");
  // A checksum is no proof of good will: every number is checked against the file's size before use, by divisions that cannot overflow.
  const uint64_t size = bytes.size();
  if (header.width != 2 && header.width != 4) corrupted(fmt::format("{} bytes a token, must be 2 or 4", header.width));
  const auto hexadecimal = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  if (!std::all_of(header.fingerprint, header.fingerprint + sizeof(header.fingerprint), hexadecimal))
    corrupted("the tokenizer's fingerprint is malformed");
  if (header.vocab_size < 1 || header.vocab_size > (uint64_t{1} << 31) - 1 || (header.width == 2 && header.vocab_size > 65536))
    corrupted(fmt::format("a vocabulary of {}", header.vocab_size));
  if (header.tokens_offset != sizeof(ShardHeader)) corrupted(fmt::format("tokens at offset {}", header.tokens_offset));
  if (header.tokens > (size - sizeof(ShardHeader)) / header.width) corrupted(fmt::format("{} tokens in {} bytes", header.tokens, size));
  const uint64_t table = (header.tokens_offset + header.tokens * header.width + 7) / 8 * 8;
  if (header.table_offset != table || table > size)
    corrupted(fmt::format("document table at offset {}, must be {}", header.table_offset, table));
  const uint64_t rows = (size - table) / sizeof(ShardRow);
  if (rows < 1 || header.documents != rows - 1 || (size - table) % sizeof(ShardRow) != 0)
    corrupted(fmt::format("{} documents, but {} bytes for their table", header.documents, size - table));
}

void TokenShard::Impl::check_table() const {
  const auto* table = reinterpret_cast<const char*>(file.bytes().data() + header.table_offset);
  if (hash_bytes({table, file.bytes().size() - header.table_offset}) != header.table_checksum)
    corrupted("the checksum of its document table disagrees");
  ShardRow before = {0, 0};
  for (int64_t i = 0; i <= static_cast<int64_t>(header.documents); ++i) {
    const ShardRow now = row(i);
    if (now.token < before.token || now.byte < before.byte || (i == 0 && (now.token != 0 || now.byte != 0)))
      corrupted(fmt::format("document {} begins before the one in front of it", i));
    before = now;
  }
  if (before.token != header.tokens || before.byte != header.text_bytes) corrupted("the document table does not end at the last token");
  if (before.byte > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))  // it would be read as a negative place
    corrupted(fmt::format("the document table counts {} bytes of text", before.byte));
}

TokenShard::TokenShard(const fs::path& path) {
  std::error_code error;
  if (!fs::exists(path, error)) throw UserError("token shard {}: no such file", path.string());
  if (!fs::is_regular_file(path, error)) throw UserError("token shard {}: not a regular file", path.string());
  const auto impl = std::make_shared<Impl>(path);
  impl->check_header();
  impl->check_table();
  impl_ = impl;
}

int64_t TokenShard::tokens() const { return static_cast<int64_t>(impl_->header.tokens); }
int64_t TokenShard::documents() const { return static_cast<int64_t>(impl_->header.documents); }
int64_t TokenShard::text_bytes() const { return static_cast<int64_t>(impl_->header.text_bytes); }
int64_t TokenShard::vocab_size() const { return static_cast<int64_t>(impl_->header.vocab_size); }
const fs::path& TokenShard::path() const { return impl_->path; }
std::string TokenShard::tokenizer_fingerprint() const { return std::string(impl_->header.fingerprint, sizeof(impl_->header.fingerprint)); }

int64_t TokenShard::document_begin(int64_t document) const {
  CAIRN_CHECK(document >= 0 && document <= documents(), "document {} of {}", document, documents());
  return static_cast<int64_t>(impl_->row(document).token);
}

int64_t TokenShard::document_begin_byte(int64_t document) const {
  CAIRN_CHECK(document >= 0 && document <= documents(), "document {} of {}", document, documents());
  return static_cast<int64_t>(impl_->row(document).byte);
}

int64_t TokenShard::document_of(int64_t token) const {
  CAIRN_CHECK(token >= 0 && token < tokens(), "token {} of {}", token, tokens());
  int64_t low = 0, high = documents();  // row(low).token <= token < row(high).token
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (static_cast<int64_t>(impl_->row(middle).token) <= token ? low : high) = middle;
  }
  return low;
}

void TokenShard::read(int64_t begin, std::span<int32_t> out) const {
  const auto count = static_cast<int64_t>(out.size());
  CAIRN_CHECK(begin >= 0 && begin <= tokens() && count <= tokens() - begin, "tokens {} .. {} of {}", begin, begin + count, tokens());
  const uint8_t* data = impl_->file.bytes().data() + impl_->header.tokens_offset + begin * impl_->header.width;
  uint32_t largest = 0;  // unsigned: a negative id counts as too large
  if (impl_->header.width == 2) {
    for (int64_t i = 0; i < count; ++i) {
      uint16_t token;
      std::memcpy(&token, data + 2 * i, 2);
      out[i] = token;
      largest = std::max<uint32_t>(largest, token);
    }
  } else {
    for (int64_t i = 0; i < count; ++i) {
      uint32_t token;
      std::memcpy(&token, data + 4 * i, 4);
      out[i] = static_cast<int32_t>(token);
      largest = std::max(largest, token);
    }
  }
  if (largest >= impl_->header.vocab_size && count > 0)
    impl_->corrupted(fmt::format("token id {} among tokens {} .. {}, outside the vocabulary of {}", largest, begin, begin + count,
                                 impl_->header.vocab_size));
}

void TokenShard::verify() const {
  const auto* data = reinterpret_cast<const char*>(impl_->file.bytes().data() + impl_->header.tokens_offset);
  if (hash_bytes({data, impl_->header.table_offset - impl_->header.tokens_offset}) != impl_->header.tokens_checksum)
    impl_->corrupted("the checksum of its tokens disagrees");
  std::vector<int32_t> block(1 << 16);
  for (int64_t at = 0; at < tokens(); at += static_cast<int64_t>(block.size()))
    read(at, std::span(block).first(std::min<int64_t>(block.size(), tokens() - at)));
}

}  // namespace cairn
