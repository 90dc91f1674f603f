#include "cairn/text/tokenizer.h"

#include <algorithm>
#include <atomic>

#include "cairn/core/error.h"
#include "cairn/text/parallel.h"
#include "cairn/text/tokenizer_kinds.h"
#include "cairn/text/utf8.h"

namespace cairn {
namespace {

constexpr int64_t kMaxTokenizerBytes = int64_t{256} << 20;
constexpr int64_t kPartBytes = int64_t{256} << 10;  // big enough to hide the cost of a thread, small enough to share out evenly

}  // namespace

std::string Tokenizer::fingerprint() const { return hash_hex(kind() + std::string(1, '\0') + serialized()); }

std::shared_ptr<const Tokenizer> load_tokenizer(const std::string& name_or_path) {
  if (name_or_path == "bytes") return make_bytes_tokenizer();
  if (name_or_path.empty()) throw UserError("no tokenizer given: \"bytes\" or the path of a tokenizer file");
  std::error_code error;
  if (!fs::exists(name_or_path, error))
    throw UserError("tokenizer {}: no such file; give \"bytes\" or the path of a file that `cairn tokenizer train` wrote", name_or_path);
  if (!fs::is_regular_file(name_or_path, error)) throw UserError("tokenizer {}: not a regular file", name_or_path);
  return parse_tokenizer(read_file(name_or_path, kMaxTokenizerBytes), name_or_path);
}

std::shared_ptr<const Tokenizer> parse_tokenizer(std::string_view bytes, const std::string& source_name) {
  if (bytes.empty()) throw UserError("tokenizer {}: the file is empty", source_name);
  if (bytes == kBytesHeader) return make_bytes_tokenizer();
  if (bytes.starts_with(kWordsHeader)) return parse_word_tokenizer(bytes, source_name);
  for (const std::string_view header : {kWordsHeader, kBytesHeader}) {
    const std::string_view name = header.substr(0, header.find(' ') + 1);
    if (bytes.starts_with(name))
      throw UserError("tokenizer {}: line 1 must be \"{}\" (version 1), is \"{}\"", source_name, header.substr(0, header.size() - 1),
                      repair_utf8(bytes.substr(0, std::min<size_t>(bytes.find('\n'), 40))));
  }
  return parse_sentencepiece_tokenizer(bytes, "tokenizer " + source_name);
}

std::vector<int32_t> encode_parallel(const Tokenizer& tokenizer, std::string_view text, int threads) {
  threads = thread_count(threads);
  if (threads == 1 || static_cast<int64_t>(text.size()) < 2 * kPartBytes) return tokenizer.encode(text);
  require_utf8(text, "the text to encode");  // whole, so that the offset is that of the whole text
  std::vector<std::string_view> parts;
  for (std::string_view rest = text; !rest.empty();) {
    int64_t end = static_cast<int64_t>(rest.size());
    for (int64_t part = kPartBytes; part < static_cast<int64_t>(rest.size()); part *= 2) {
      const int64_t cut = tokenizer.cut_before(rest, part);
      if (cut > 0) {
        end = cut;
        break;
      }
    }
    parts.push_back(rest.substr(0, end));
    rest.remove_prefix(end);
  }
  std::vector<std::vector<int32_t>> encoded(parts.size());
  parallel_tasks(static_cast<int64_t>(parts.size()), threads, [&](int64_t i) { encoded[i] = tokenizer.encode(parts[i]); });
  size_t total = 0;
  for (const auto& ids : encoded) total += ids.size();
  std::vector<int32_t> ids;
  ids.reserve(total);
  for (auto& part : encoded) {
    ids.insert(ids.end(), part.begin(), part.end());
    std::vector<int32_t>().swap(part);
  }
  return ids;
}

}  // namespace cairn
