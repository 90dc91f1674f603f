// Training of SentencePiece models on a deterministic sample of text files.
#include <sentencepiece_trainer.h>

#include <algorithm>
#include <array>
#include <fstream>

#include "cairn/core/error.h"
#include "cairn/core/random.h"
#include "cairn/text/parallel.h"
#include "cairn/text/sentencepiece_model.h"
#include "cairn/text/tokenizer.h"
#include "cairn/text/utf8.h"

namespace cairn {
namespace {

constexpr int64_t kBlockBytes = 64 << 10;     // unit of the sample
constexpr size_t kMaxSentenceBytes = 4000;    // the trainer drops sentences of more than 4192 bytes
constexpr uint64_t kSampleStream = 0x746f6b;  // random stream of the choice of blocks

struct Block {
  size_t file;
  int64_t begin, end;
};

struct Corpus {
  std::vector<fs::path> files;
  std::vector<int64_t> sizes;
  std::vector<Block> blocks;  // those of the sample, in order

  explicit Corpus(const TokenizerTraining& options) : files(options.files) {
    if (files.empty()) throw UserError("tokenizer training: no text files given");
    int64_t total = 0;
    for (const auto& file : files) {
      std::error_code error;
      if (file == "-")
        throw UserError("tokenizer training reads its files more than once: standard input (\"-\") is not possible, give a file");
      if (!fs::exists(file, error)) throw UserError("{}: no such file", file.string());
      if (!fs::is_regular_file(file, error)) throw UserError("{}: not a regular file", file.string());
      const auto size = static_cast<int64_t>(fs::file_size(file, error));
      if (error) throw UserError("{}: {}", file.string(), error.message());
      sizes.push_back(size);
      total += size;
    }
    if (total == 0) throw UserError("tokenizer training: {} holds no text", files.size() == 1 ? files[0].string() : "none of the files");
    std::vector<Block> all;
    for (size_t f = 0; f < files.size(); ++f)
      for (int64_t begin = 0; begin < sizes[f]; begin += kBlockBytes) all.push_back({f, begin, std::min(begin + kBlockBytes, sizes[f])});
    if (total <= options.max_sample_bytes) {
      blocks = std::move(all);
      return;
    }
    const int64_t wanted = std::max<int64_t>(1, options.max_sample_bytes / kBlockBytes);
    auto chosen =
        Random(stream_key({options.seed, kSampleStream})).choose(static_cast<int64_t>(all.size()), std::min<int64_t>(wanted, all.size()));
    std::sort(chosen.begin(), chosen.end());
    for (const int64_t i : chosen) blocks.push_back(all[i]);
  }
};

// The sentences of the sample. A block owns the lines that begin in it: it starts behind the first line end (unless it is the file's first
// block) and reads on to the end of its last line, so neighbouring blocks share nothing and lose nothing (but for lines longer than a
// block).
class Sentences : public sentencepiece::SentenceIterator {
 public:
  explicit Sentences(const Corpus& corpus) : corpus_(corpus) { Next(); }
  bool done() const override { return done_; }
  const std::string& value() const override { return value_; }
  sentencepiece::util::Status status() const override { return {}; }
  int64_t bytes() const { return bytes_; }  // of all sentences so far
  // Exceptions must not pass through the library: kept here, and the iteration ends.
  std::exception_ptr error() const { return error_; }

  void Next() override {
    try {
      while (waiting_.empty()) {
        if (block_ == corpus_.blocks.size()) {
          done_ = true;
          return;
        }
        load(corpus_.blocks[block_++]);
      }
      value_ = std::move(waiting_.back());
      bytes_ += static_cast<int64_t>(value_.size());
      waiting_.pop_back();
    } catch (...) {
      error_ = std::current_exception();
      done_ = true;
    }
  }

 private:
  static bool ends_line(char c) { return c == '\n' || c == '\0'; }

  void load(const Block& block) {
    const fs::path& path = corpus_.files[block.file];
    std::ifstream stream(path, std::ios::binary);
    if (!stream) throw UserError("{}: cannot be opened", path.string());
    const int64_t end = std::min(corpus_.sizes[block.file], block.end + kBlockBytes);  // a line that is longer than a block is cut
    const int64_t begin = std::max<int64_t>(0, block.begin - 1);                       // is the byte before a line end?
    std::string text(end - begin, '\0');
    stream.seekg(begin);
    stream.read(text.data(), end - begin);
    if (stream.gcount() != end - begin) throw UserError("{}: cannot be read at byte {} (was it changed meanwhile?)", path.string(), begin);
    int64_t first = 0;
    if (block.begin > 0) {
      const auto found = std::find_if(text.begin(), text.begin() + (block.end - begin), ends_line);
      // In a line that spans the whole block, any character will do as a beginning.
      first = found == text.begin() + (block.end - begin) ? 1 : found - text.begin() + 1;
    }
    while (first < end - begin && (static_cast<unsigned char>(text[first]) & 0xC0) == 0x80) ++first;
    auto last = std::find_if(text.begin() + std::max(first, block.end - begin - 1), text.end(), ends_line) - text.begin();
    if (last == end - begin && end < corpus_.sizes[block.file]) last -= incomplete_utf8_tail(text);
    if (first >= last) return;
    const std::string_view whole = std::string_view(text).substr(first, last - first);
    require_utf8(whole, path.string(), begin + first);
    split(whole);
    std::reverse(waiting_.begin(), waiting_.end());  // taken from the back
  }

  // Lines; the trainer cannot read a tab, U+2581 or U+2585 (its own marks), so these end a sentence, too. No piece crosses such a place
  // anyway.
  void split(std::string_view text) {
    size_t begin = 0;
    const auto take = [&](size_t end) {
      std::string_view sentence = text.substr(begin, end - begin);
      while (sentence.size() > kMaxSentenceBytes) {
        size_t cut = sentence.rfind(' ', kMaxSentenceBytes);
        if (cut == 0 || cut == std::string_view::npos) {
          cut = kMaxSentenceBytes;
          while ((static_cast<unsigned char>(sentence[cut]) & 0xC0) == 0x80) --cut;
        }
        waiting_.emplace_back(sentence.substr(0, cut));
        sentence.remove_prefix(cut);
      }
      if (!sentence.empty()) waiting_.emplace_back(sentence);
    };
    for (size_t at = 0; at < text.size(); ++at) {
      size_t length = 0;
      if (ends_line(text[at]) || text[at] == '\t')
        length = 1;
      else if (text.compare(at, 3, "\xE2\x96\x81") == 0 || text.compare(at, 3, "\xE2\x96\x85") == 0)
        length = 3;
      if (length == 0) continue;
      take(at);
      begin = at + length;
      at = begin - 1;
    }
    take(text.size());
  }

  const Corpus& corpus_;
  size_t block_ = 0;
  std::vector<std::string> waiting_;
  std::string value_;
  bool done_ = false;
  int64_t bytes_ = 0;
  std::exception_ptr error_;
};

}  // namespace

std::string train_sentencepiece(const TokenizerTraining& options) {
  // 256 bytes, pad and unknown, and something to learn.
  if (options.vocab_size < 300 || options.vocab_size > 1'000'000)
    throw UserError("tokenizer training: vocabulary of {}, must be 300 to 1000000 (256 of it are bytes)", options.vocab_size);
  if (options.max_sample_bytes < 1)
    throw UserError("tokenizer training: a sample of {} bytes, must be at least 1", options.max_sample_bytes);
  const Corpus corpus(options);
  Sentences sentences(corpus);
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(
      {
          {"model_type", "bpe"},
          {"vocab_size", std::to_string(options.vocab_size)},
          {"normalization_rule_name", "identity"},
          {"add_dummy_prefix", "false"},
          {"remove_extra_whitespaces", "false"},
          {"split_by_whitespace", "true"},
          {"split_by_unicode_script", "true"},
          {"split_by_number", "true"},
          {"split_digits", "true"},
          {"treat_whitespace_as_suffix", "false"},
          {"allow_whitespace_only_pieces", "false"},
          {"byte_fallback", "true"},
          {"character_coverage", "0.9995"},
          {"pad_id", "0"},
          {"unk_id", "1"},
          {"bos_id", "-1"},
          {"eos_id", "-1"},
          {"num_threads", std::to_string(std::min(thread_count(options.threads), 127))},
          {"input_sentence_size", "0"},
          {"minloglevel", "2"},
      },
      &sentences, &model);
  if (sentences.error()) std::rethrow_exception(sentences.error());
  if (sentences.bytes() == 0) throw UserError("tokenizer training: the files hold no text but line ends and NUL bytes");
  if (!status.ok()) {
    const std::string reason = status.ToString();

    const size_t readable = reason.find("Vocabulary size");
    throw UserError("tokenizer training on {} bytes: {}", sentences.bytes(),
                    readable == std::string::npos ? reason : reason.substr(readable));
  }
  forget_thread_count(&model);
  parse_sentencepiece_model(model, "the trained tokenizer");  // the contract holds for what we hand out
  return model;
}

}  // namespace cairn
