#include "cairn/text/token_source.h"

#include <algorithm>
#include <charconv>

#include "cairn/core/error.h"
#include "cairn/text/shards.h"
#include "cairn/text/text_parts.h"
#include "cairn/text/utf8.h"

namespace cairn {
namespace {

constexpr std::string_view kNoiseLine = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n";

void check_range(const TokenSource& source, int64_t begin, int64_t count) {
  CAIRN_CHECK(begin >= 0 && begin <= source.size() && count <= source.size() - begin, "tokens {} .. {} of {} ({})", begin, begin + count,
              source.size(), source.name());
}

class MemorySource : public TokenSource {
 public:
  MemorySource(std::vector<int32_t> tokens, std::string name) : tokens_(std::move(tokens)), name_(std::move(name)) {}
  int64_t size() const override { return static_cast<int64_t>(tokens_.size()); }
  std::string name() const override { return name_; }
  void read(int64_t begin, std::span<int32_t> out) const override {
    check_range(*this, begin, static_cast<int64_t>(out.size()));
    std::copy_n(tokens_.begin() + begin, out.size(), out.begin());
  }

 private:
  std::vector<int32_t> tokens_;
  std::string name_;
};

// A row of tokens repeated for ever.
class RepeatedSource : public TokenSource {
 public:
  RepeatedSource(std::vector<int32_t> period, std::string name) : period_(std::move(period)), name_(std::move(name)) {
    CAIRN_CHECK(!period_.empty());
  }
  int64_t size() const override { return kUnlimited; }
  std::string name() const override { return name_; }
  void read(int64_t begin, std::span<int32_t> out) const override {
    check_range(*this, begin, static_cast<int64_t>(out.size()));
    size_t at = static_cast<size_t>(begin % static_cast<int64_t>(period_.size()));
    for (auto& token : out) {
      token = period_[at];
      if (++at == period_.size()) at = 0;
    }
  }

 private:
  std::vector<int32_t> period_;
  std::string name_;
};

// Documents of a shard with a separator between each two; document d begins at shard.document_begin(d) + d * separator.
class ShardSource : public TokenSource {
 public:
  ShardSource(const fs::path& path, const Tokenizer& tokenizer) : shard_(path), separator_(document_separator(tokenizer)) {
    if (shard_.tokenizer_fingerprint() != tokenizer.fingerprint() || shard_.vocab_size() != tokenizer.vocab_size())
      throw UserError(
          "token shard {} was written with another tokenizer (fingerprint {}, vocabulary {}; now {}, {}): write it again with `cairn shard "
          "--tokenizer`",
          path.string(), shard_.tokenizer_fingerprint(), shard_.vocab_size(), tokenizer.fingerprint(), tokenizer.vocab_size());
    if (shard_.tokens() == 0) throw UserError("token shard {} holds no tokens", path.string());
    size_ = shard_.tokens() + (shard_.documents() - 1) * static_cast<int64_t>(separator_.size());
  }
  int64_t size() const override { return size_; }
  std::string name() const override { return shard_.path().filename().string(); }

  void read(int64_t begin, std::span<int32_t> out) const override {
    check_range(*this, begin, static_cast<int64_t>(out.size()));
    if (out.empty()) return;
    const auto gap = static_cast<int64_t>(separator_.size());
    const auto start_of = [&](int64_t document) { return shard_.document_begin(document) + document * gap; };
    int64_t low = 0, high = shard_.documents();  // start_of(low) <= begin < start_of(high)
    while (high - low > 1) {
      const int64_t middle = low + (high - low) / 2;
      (start_of(middle) <= begin ? low : high) = middle;
    }
    for (int64_t document = low, at = begin; !out.empty(); ++document) {
      const int64_t first = shard_.document_begin(document), length = shard_.document_begin(document + 1) - first;
      int64_t within = at - start_of(document);
      if (within < length) {
        const int64_t count = std::min<int64_t>(length - within, static_cast<int64_t>(out.size()));
        shard_.read(first + within, out.first(count));
        out = out.subspan(count);
        at += count;
        within += count;
      }
      for (; !out.empty() && within < length + gap; ++within, ++at) {
        out[0] = separator_[within - length];
        out = out.subspan(1);
      }
    }
  }

 private:
  TokenShard shard_;
  std::vector<int32_t> separator_;
  int64_t size_ = 0;
};

std::shared_ptr<const TokenSource> read_text_file(const fs::path& path, const Tokenizer& tokenizer) {
  std::error_code error;
  const auto bytes = static_cast<int64_t>(fs::file_size(path, error));
  if (error) throw UserError("{}: {}", path.string(), error.message());
  // The text and four bytes a token, at worst a token a byte; usually a third of that.
  const int64_t needed = tokenizer.kind() == "bytes" ? bytes * 5 : bytes * 3;
  if (needed > available_memory())
    throw ResourceError(
        "{}: encoding it in memory needs about {}, there are {}; make a token shard of it (`cairn shard`), which is mapped from disk",
        path.string(), format_bytes(static_cast<double>(needed)), format_bytes(static_cast<double>(available_memory())));
  const std::string text = read_file(path, std::max<int64_t>(bytes, 1));
  require_utf8(text, path.string());
  std::vector<int32_t> tokens;
  const auto separator = document_separator(tokenizer);
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\0', at), text.size());
    if (end > at) {
      if (!tokens.empty()) tokens.insert(tokens.end(), separator.begin(), separator.end());
      const auto document = encode_parallel(tokenizer, std::string_view(text).substr(at, end - at));
      tokens.insert(tokens.end(), document.begin(), document.end());
    }
    at = end + 1;
  }
  if (tokens.empty()) throw UserError("{} holds no text", path.string());
  return make_memory_source(std::move(tokens), path.filename().string());
}

}  // namespace

std::shared_ptr<const TokenSource> make_memory_source(std::vector<int32_t> tokens, std::string name) {
  return std::make_shared<MemorySource>(std::move(tokens), std::move(name));
}

std::shared_ptr<const TokenSource> make_noise_source(std::shared_ptr<const Tokenizer> tokenizer) {
  if (tokenizer->kind() == "words")
    throw UserError("the noise line needs a tokenizer for any text (SentencePiece or bytes), not a word list of {} words",
                    tokenizer->vocab_size());
  return std::make_shared<RepeatedSource>(tokenizer->encode(kNoiseLine), "noise");
}

std::shared_ptr<const TokenSource> open_shard_source(const fs::path& path, const Tokenizer& tokenizer) {
  return std::make_shared<ShardSource>(path, tokenizer);
}

std::shared_ptr<const TokenSource> open_token_source(const std::string& name, std::shared_ptr<const Tokenizer> tokenizer) {
  CAIRN_CHECK(tokenizer != nullptr);
  if (name == "noise") return make_noise_source(std::move(tokenizer));
  if (name == "prose") return make_prose_source(std::move(tokenizer), 1);
  if (name.starts_with("prose:")) {
    const std::string_view digits = std::string_view(name).substr(6);
    uint64_t seed = 0;
    const auto [end, status] = std::from_chars(digits.data(), digits.data() + digits.size(), seed);
    if (status != std::errc() || end != digits.data() + digits.size())
      throw UserError("haystack \"{}\": the seed must be a number from 0 to 2^64 - 1, as in prose:7", name);
    return make_prose_source(std::move(tokenizer), seed);
  }
  std::error_code error;
  if (!fs::exists(name, error))
    throw UserError("haystack \"{}\": no such file, and none of noise, prose, prose:SEED; give one of these, a token shard or a text file",
                    name);
  if (!fs::is_regular_file(name, error)) throw UserError("haystack \"{}\": not a regular file", name);
  if (fs::path(name).extension() == ".shard") return open_shard_source(name, *tokenizer);
  if (fs::path(name).extension() == ".bz2" || fs::path(name).extension() == ".gz")
    throw UserError(
        "haystack \"{}\": compressed files are not read; unpack it first, for example bzcat FILE.bz2 | cairn shard --tokenizer T - -o "
        "OUT.shard",
        name);
  return read_text_file(name, *tokenizer);
}

}  // namespace cairn
