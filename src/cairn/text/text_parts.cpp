#include "cairn/text/text_parts.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "cairn/core/error.h"
#include "cairn/text/parallel.h"
#include "cairn/text/utf8.h"

namespace cairn {
namespace {

constexpr int64_t kPartBytes = int64_t{256} << 10;
constexpr int64_t kMaxUncut = int64_t{256} << 20;  // text without any place for a cut, held in memory

}  // namespace

// A text file or standard input, read front to back.
class TextParts::Input {
 public:
  Input(const fs::path& path, std::string name) : name_(std::move(name)) {
    if (path == "-") {
      descriptor_ = STDIN_FILENO;
      return;
    }
    descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor_ < 0) throw UserError("{}: cannot be opened: {}", name_, std::strerror(errno));
  }
  ~Input() {
    if (descriptor_ > STDIN_FILENO) ::close(descriptor_);
  }
  Input(const Input&) = delete;
  Input& operator=(const Input&) = delete;

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

  // Reads past `bytes` bytes (pipes cannot be sought in) and returns the last of them.
  char skip(int64_t bytes) {
    std::string passed;
    char last = 0;
    for (int64_t left = bytes; left > 0; left -= static_cast<int64_t>(passed.size())) {
      passed.clear();
      append(&passed, std::min(left, int64_t{1} << 20));
      if (passed.empty()) throw UserError("{}: ends before byte {}, where reading was to go on: the text has changed", name_, bytes);
      last = passed.back();
    }
    return last;
  }
  const std::string& name() const { return name_; }

 private:
  std::string name_;
  int descriptor_ = -1;
};

int64_t total_text_bytes(const std::vector<fs::path>& files) {
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

std::vector<int32_t> document_separator(const Tokenizer& tokenizer) {
  return tokenizer.kind() == "words" ? std::vector<int32_t>() : tokenizer.encode("\n\n");
}

TextParts::TextParts(std::shared_ptr<const Tokenizer> tokenizer, std::vector<fs::path> files, int threads, TextPlace start,
                     int64_t round_bytes)
    : tokenizer_(std::move(tokenizer)),
      files_(std::move(files)),
      threads_(thread_count(threads)),
      round_bytes_(round_bytes),
      total_(total_text_bytes(files_)),
      at_{start.source, 0} {
  for (const fs::path& file : files_) names_.push_back(file == "-" ? "standard input" : file.string());
  CAIRN_CHECK(start.source >= 0 && start.source <= std::ssize(files_) && start.offset >= 0, "start {} {}", start.source, start.offset);
  for (int64_t i = 0; i < start.source; ++i) {
    if (total_ > 0) done_ += static_cast<int64_t>(fs::file_size(files_[i]));
  }
  if (start.source < std::ssize(files_)) open_source(start.offset);
}

TextParts::~TextParts() = default;

void TextParts::open_source(int64_t offset) {
  input_ = std::make_unique<Input>(files_[at_.source], names_[at_.source]);
  // A cut that is no document's end lies inside one.
  open_ = offset > 0 && input_->skip(offset) != '\0';
  at_.offset = offset;
  done_ += offset;
}

bool TextParts::next(std::vector<TextPart>* parts) {
  parts->clear();
  if (at_.source == std::ssize(files_)) return false;
  if (input_ == nullptr) open_source(0);
  const bool more = input_->append(&text_, round_bytes_);
  const int64_t valid = static_cast<int64_t>(text_.size()) - (more ? incomplete_utf8_tail(text_) : 0);
  require_utf8(std::string_view(text_).substr(0, valid), input_->name(), at_.offset);
  const int64_t used = encode_round(std::string_view(text_).substr(0, valid), !more, parts);
  if (static_cast<int64_t>(text_.size()) - used > kMaxUncut)
    throw UserError("{}: {} from byte {} on have no place where they can be cut into words: this is no text", input_->name(),
                    format_bytes(kMaxUncut), at_.offset + used);
  text_.erase(0, used);
  at_.offset += used;
  done_ += used;
  if (!more) {
    at_ = {at_.source + 1, 0};
    text_.clear();
    input_.reset();
    open_ = false;  // each file ends a document
  }
  return true;
}

// Encodes as much of `text` as can be cut off (all of it if `last`); returns the bytes used.
int64_t TextParts::encode_round(std::string_view text, bool last, std::vector<TextPart>* parts) {
  std::vector<std::string_view> texts;
  int64_t at = 0;
  const auto size = static_cast<int64_t>(text.size());
  while (at < size) {
    const size_t nul = text.find('\0', at);
    const bool whole = nul != std::string_view::npos || last;  // is the document's end in sight?
    std::string_view document = text.substr(at, (nul == std::string_view::npos ? text.size() : nul) - at);
    while (!document.empty()) {
      const auto rest = static_cast<int64_t>(document.size());
      int64_t cut = rest > kPartBytes ? tokenizer_->cut_before(document, kPartBytes) : 0;
      if (cut == 0 && rest > kPartBytes) cut = tokenizer_->cut_before(document, rest - 1);  // no place early on: the last one
      if (cut == 0) {
        // A document that goes on behind the round waits for its continuation (a short one also, to be encoded in one part).
        if (!whole) break;
        cut = rest;
      }
      texts.push_back(document.substr(0, cut));
      parts->push_back({{}, cut, {at_.source, at_.offset + at}, !open_});
      open_ = true;
      document.remove_prefix(cut);
      at += cut;
    }
    if (!whole) break;
    if (nul != std::string_view::npos) {
      open_ = false;
      at = static_cast<int64_t>(nul) + 1;
    }
  }
  parallel_tasks(std::ssize(texts), threads_, [&](int64_t i) { (*parts)[i].ids = tokenizer_->encode(texts[i]); });
  return at;
}

}  // namespace cairn
