// Text files -> token shard. The text streams through in rounds of some megabytes: read, cut into documents and these into parts, encode
// the parts on all threads, append in order. Memory stays bounded (a round, its tokens, 16 bytes a document) however long the text is.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "cairn/core/error.h"
#include "cairn/core/progress.h"
#include "cairn/text/parallel.h"
#include "cairn/text/shard_format.h"
#include "cairn/text/shards.h"
#include "cairn/text/utf8.h"

namespace cairn {
namespace {

constexpr int64_t kPartBytes = int64_t{256} << 10;
constexpr int64_t kRoundBytes = int64_t{8} << 20;
constexpr int64_t kMaxUncut = int64_t{256} << 20;  // text without any place for a cut, held in memory

// A text file or standard input, read front to back.
class TextInput {
 public:
  explicit TextInput(const fs::path& path) : name_(path == "-" ? "standard input" : path.string()) {
    if (path == "-") {
      descriptor_ = STDIN_FILENO;
      return;
    }
    descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor_ < 0) throw UserError("{}: cannot be opened: {}", name_, std::strerror(errno));
  }
  ~TextInput() {
    if (descriptor_ > STDIN_FILENO) ::close(descriptor_);
  }
  TextInput(const TextInput&) = delete;
  TextInput& operator=(const TextInput&) = delete;

  // Appends up to `bytes` bytes; false at the end of the file.
  bool append(std::string* text, int64_t bytes) {
    const size_t before = text->size();
    text->resize(before + bytes);
    int64_t got = 0;
    while (got < bytes) {
      const ssize_t n = ::read(descriptor_, text->data() + before + got, bytes - got);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) throw UserError("{}: cannot be read: {}", name_, std::strerror(errno));
      if (n == 0) break;
      got += n;
    }
    text->resize(before + got);
    return got == bytes;
  }
  const std::string& name() const { return name_; }

 private:
  std::string name_;
  int descriptor_ = -1;
};

int64_t checked_total_bytes(const std::vector<fs::path>& files) {
  if (files.empty()) throw UserError("no text files given");
  int64_t total = 0;
  bool known = true;
  for (const auto& file : files) {
    std::error_code error;
    if (file == "-") {
      if (std::count(files.begin(), files.end(), file) > 1) throw UserError("standard input (\"-\") can be read only once");
      known = false;
      continue;
    }
    if (!fs::exists(file, error)) throw UserError("{}: no such file", file.string());
    if (fs::is_directory(file, error)) throw UserError("{}: is a folder; name its text files", file.string());
    if (fs::is_regular_file(file, error))
      total += static_cast<int64_t>(fs::file_size(file, error));
    else
      known = false;
  }
  return known ? total : 0;
}

class ShardWriter {
 public:
  ShardWriter(const Tokenizer& tokenizer, const ShardWriting& options)
      : tokenizer_(tokenizer),
        threads_(thread_count(options.threads)),
        total_bytes_(checked_total_bytes(options.files)),
        file_(options.output) {
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

  void add_file(const fs::path& path) {
    TextInput input(path);
    std::string text;        // not encoded yet: from the last cut on
    int64_t text_begin = 0;  // its byte offset in the file
    for (bool more = true; more;) {
      more = input.append(&text, kRoundBytes);
      const int64_t valid = static_cast<int64_t>(text.size()) - (more ? incomplete_utf8_tail(text) : 0);
      require_utf8(std::string_view(text).substr(0, valid), input.name(), text_begin);
      const int64_t used = encode_round(std::string_view(text).substr(0, valid), !more);
      if (static_cast<int64_t>(text.size()) - used > kMaxUncut)
        throw UserError("{}: {} from byte {} on have no place where they can be cut into words: this is no text", input.name(),
                        format_bytes(kMaxUncut), text_begin + used);
      text.erase(0, used);
      text_begin += used;
      bytes_read_ += used;
      if (progress_) progress_->update(bytes_read_, fmt::format("{} tokens", header_.tokens));
    }
    end_document();  // each file ends a document
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
  struct Part {
    std::string_view text;
    bool ends_document;
  };

  // Encodes as much of `text` as can be cut off (all of it if `last`); returns the bytes used.
  int64_t encode_round(std::string_view text, bool last) {
    std::vector<Part> parts;
    int64_t at = 0;
    const auto size = static_cast<int64_t>(text.size());
    while (at < size) {
      const size_t nul = text.find('\0', at);
      const bool whole = nul != std::string_view::npos || last;  // is the document's end in sight?
      std::string_view document = text.substr(at, (nul == std::string_view::npos ? text.size() : nul) - at);
      while (!document.empty()) {
        const auto rest = static_cast<int64_t>(document.size());
        int64_t cut = rest > kPartBytes ? tokenizer_.cut_before(document, kPartBytes) : 0;
        if (cut == 0 && rest > kPartBytes) cut = tokenizer_.cut_before(document, rest - 1);  // no place early on: the last one
        if (cut == 0) {
          // A document that goes on behind the round waits for its continuation (a short one also, to be encoded in one part).
          if (!whole) break;
          cut = rest;
        }
        parts.push_back({document.substr(0, cut), false});
        document.remove_prefix(cut);
        at += cut;
      }
      if (!whole) break;
      if (nul != std::string_view::npos) {
        parts.push_back({{}, true});
        at = static_cast<int64_t>(nul) + 1;
      }
    }
    encode_parts(parts);
    return at;
  }

  void encode_parts(const std::vector<Part>& parts) {
    std::vector<std::vector<int32_t>> encoded(parts.size());
    parallel_tasks(static_cast<int64_t>(parts.size()), threads_, [&](int64_t i) {
      if (!parts[i].text.empty()) encoded[i] = tokenizer_.encode(parts[i].text);
    });
    for (size_t i = 0; i < parts.size(); ++i) {
      if (parts[i].ends_document) {
        end_document();
        continue;
      }
      if (!open_) rows_.push_back({header_.tokens, header_.text_bytes});
      open_ = true;
      header_.tokens += encoded[i].size();
      header_.text_bytes += parts[i].text.size();
      if (header_.width == 2) {
        narrow_.assign(encoded[i].begin(), encoded[i].end());
        append(narrow_.data(), static_cast<int64_t>(narrow_.size() * 2));
      } else {
        append(encoded[i].data(), static_cast<int64_t>(encoded[i].size() * 4));
      }
    }
  }

  void end_document() { open_ = false; }  // empty documents leave no row

  void append(const void* data, int64_t bytes) {
    file_.write(data, bytes);
    XXH3_64bits_update(&tokens_hash_, data, bytes);
  }

  const Tokenizer& tokenizer_;
  int threads_;
  int64_t total_bytes_;
  AtomicFile file_;
  std::optional<Progress> progress_;
  ShardHeader header_ = {};
  XXH3_state_t tokens_hash_;
  std::vector<ShardRow> rows_;
  std::vector<uint16_t> narrow_;
  bool open_ = false;  // a document has begun
  int64_t bytes_read_ = 0;
};

}  // namespace

int64_t write_shard(const Tokenizer& tokenizer, const ShardWriting& options) {
  ShardWriter writer(tokenizer, options);
  for (const auto& file : options.files) writer.add_file(file);
  return writer.finish();
}

}  // namespace cairn
