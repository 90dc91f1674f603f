// Text files -> token shard. The text streams through (text_parts.h); memory stays bounded (a round, its tokens, 16 bytes a document)
// however long it is.
#include <cstring>
#include <memory>
#include <optional>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "cairn/core/error.h"
#include "cairn/core/progress.h"
#include "cairn/text/shard_format.h"
#include "cairn/text/shards.h"
#include "cairn/text/text_parts.h"

namespace cairn {
namespace {

class ShardWriter {
 public:
  ShardWriter(const Tokenizer& tokenizer, const ShardWriting& options)
      : threads_(options.threads), total_bytes_(total_text_bytes(options.files)), file_(options.output) {
    if (total_bytes_ > 0) {
      // Rarely less than one token for two bytes of text; what is not needed is not used.
      const fs::path folder = options.output.has_parent_path() ? options.output.parent_path() : fs::path(".");
      if (tokenizer.kind() == "sentencepiece") require_free_space(folder, total_bytes_ / 8, "the token shard");
    }
    if (options.show_progress) progress_.emplace("shard", total_bytes_, "bytes");
    XXH3_64bits_reset(&tokens_hash_);
    std::memcpy(header_.magic, kShardMagic, sizeof(kShardMagic));
    header_.version = kShardVersion;
    header_.width = tokenizer.vocab_size() <= 65536 ? 2 : 4;
    const std::string fingerprint = tokenizer.fingerprint();
    CAIRN_CHECK(fingerprint.size() == sizeof(header_.fingerprint));
    std::memcpy(header_.fingerprint, fingerprint.data(), fingerprint.size());
    header_.vocab_size = static_cast<uint64_t>(tokenizer.vocab_size());
    header_.tokens_offset = sizeof(ShardHeader);
    file_.write(&header_, sizeof(header_));  // its place; the numbers follow at the end
  }

  void add_files(const std::shared_ptr<const Tokenizer>& tokenizer, const std::vector<fs::path>& files) {
    TextParts text(tokenizer, files, threads_);
    std::vector<TextPart> parts;
    while (text.next(&parts)) {
      for (const TextPart& part : parts) add(part);
      if (progress_) progress_->update(text.bytes_done(), fmt::format("{} tokens", header_.tokens));
    }
  }

  int64_t finish() {
    if (header_.tokens == 0) throw UserError("the input holds no text: nothing to write");
    const uint64_t end = header_.tokens_offset + header_.tokens * header_.width;
    const char zeros[8] = {};
    header_.table_offset = (end + 7) / 8 * 8;
    append(zeros, static_cast<int64_t>(header_.table_offset - end));
    header_.tokens_checksum = XXH3_64bits_digest(&tokens_hash_);
    rows_.push_back({header_.tokens, header_.text_bytes});
    header_.documents = rows_.size() - 1;
    header_.table_checksum = XXH3_64bits(rows_.data(), rows_.size() * sizeof(ShardRow));
    file_.write(rows_.data(), static_cast<int64_t>(rows_.size() * sizeof(ShardRow)));
    header_.header_checksum = XXH3_64bits(&header_, offsetof(ShardHeader, header_checksum));
    file_.write_at(0, &header_, sizeof(header_));
    file_.commit();
    if (progress_) progress_->finish(fmt::format("{} tokens in {} documents", header_.tokens, header_.documents));
    return static_cast<int64_t>(header_.tokens);
  }

 private:
  void add(const TextPart& part) {
    if (part.begins_document) rows_.push_back({header_.tokens, header_.text_bytes});
    header_.tokens += part.ids.size();
    header_.text_bytes += part.bytes;
    if (header_.width == 2) {
      narrow_.assign(part.ids.begin(), part.ids.end());
      append(narrow_.data(), static_cast<int64_t>(narrow_.size() * 2));
    } else {
      append(part.ids.data(), static_cast<int64_t>(part.ids.size() * 4));
    }
  }

  void append(const void* data, int64_t bytes) {
    file_.write(data, bytes);
    XXH3_64bits_update(&tokens_hash_, data, bytes);
  }

  int threads_;
  int64_t total_bytes_;
  AtomicFile file_;
  std::optional<Progress> progress_;
  ShardHeader header_ = {};
  XXH3_state_t tokens_hash_;
  std::vector<ShardRow> rows_;
  std::vector<uint16_t> narrow_;
};

}  // namespace

int64_t write_shard(const Tokenizer& tokenizer, const ShardWriting& options) {
  ShardWriter writer(tokenizer, options);
  // Not owned: the caller keeps the tokenizer until all is written.
  writer.add_files(std::shared_ptr<const Tokenizer>(std::shared_ptr<const Tokenizer>(), &tokenizer), options.files);
  return writer.finish();
}

}  // namespace cairn
