#include "cairn/memory/memory_root.h"

#include <algorithm>
#include <iterator>
#include <set>

#include "cairn/core/error.h"
#include "cairn/core/json.h"

namespace cairn {
namespace {

using nlohmann::json;
constexpr int64_t kMost = int64_t{1} << 50;  // tokens, bytes; sums of a few stay within 64 bits
constexpr int kVersion = 1;

// Members of an object with the place in the file for messages.
class Fields {
 public:
  Fields(const json& value, std::string where) : value_(value), where_(std::move(where)) {
    if (!value_.is_object()) throw UserError("{}: is not an object", where_);
  }
  const json& get(const char* name) const {
    const auto found = value_.find(name);
    if (found == value_.end()) throw UserError("{}: '{}' is missing", where_, name);
    return *found;
  }
  int64_t number(const char* name, int64_t least, int64_t most = kMost) const { return as_number(get(name), at(name), least, most); }
  std::string text(const char* name) const {
    const json& found = get(name);
    if (!found.is_string()) throw UserError("{}: is not a string", at(name));
    return found.get<std::string>();
  }
  const json& list(const char* name) const {
    const json& found = get(name);
    if (!found.is_array()) throw UserError("{}: is not a list", at(name));
    return found;
  }
  std::string at(const std::string& name) const { return where_ + ": " + name; }

  static int64_t as_number(const json& value, const std::string& where, int64_t least, int64_t most) {
    if (!value.is_number_integer() || (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(kMost)))
      throw UserError("{}: is no whole number in range", where);
    const auto number = value.get<int64_t>();
    if (number < least || number > most) throw UserError("{}: {} is outside {} .. {}", where, number, least, most);
    return number;
  }

 private:
  const json& value_;
  std::string where_;
};

StateTensor parse_tensor(const json& value, const std::string& where) {
  const Fields fields(value, where);
  StateTensor tensor;
  tensor.extent = fields.number("extent", -1);
  if (tensor.extent < 0) return tensor;
  for (const json& size : fields.list("shape")) tensor.shape.push_back(Fields::as_number(size, where, 1, int64_t{1} << 31));
  if (tensor.shape.empty() || tensor.shape.size() > 4) throw UserError("{}: a shape of {} numbers", where, tensor.shape.size());
  return tensor;
}

json tensor_json(const StateTensor& tensor) {
  if (tensor.extent < 0) return {{"extent", -1}};
  return {{"extent", tensor.extent}, {"shape", tensor.shape}};
}

MemoryIndex parse_index(const json& value, const std::string& where, const ModelConfig& model) {
  const Fields fields(value, where);
  MemoryIndex index;
  index.tokens = fields.number("tokens", 0);
  for (const json& entry : fields.list("pages")) {
    const Fields page(entry, fields.at("pages"));
    index.pages.push_back({page.number("chunks", 1), page.number("first", 0), page.number("landmarks", 0), page.number("k", 0),
                           page.number("v", 0), page.number("tokens", 0)});
  }
  index.partial_tokens = fields.number("partial_tokens", -1);
  for (const json& entry : fields.list("documents")) {
    const Fields document(entry, fields.at("documents"));
    index.documents.push_back({document.text("name"), document.number("token", 0)});
  }
  for (const json& entry : fields.list("lower")) {
    const Fields pair(entry, fields.at("lower"));
    index.lower.emplace_back(parse_tensor(pair.get("k"), pair.at("k")), parse_tensor(pair.get("v"), pair.at("v")));
  }
  index.partial = parse_tensor(fields.get("partial"), fields.at("partial"));
  index.tail = parse_tensor(fields.get("tail"), fields.at("tail"));

  int64_t chunks = 0;
  for (const PageIndex& page : index.pages) chunks += page.chunks;
  if (chunks > kMost / model.chunk || chunks != index.tokens / model.chunk)
    throw UserError("{}: pages hold {} chunks, but {} tokens make {}", where, chunks, index.tokens, index.tokens / model.chunk);
  const bool rest = index.tokens % model.chunk != 0;
  if (rest != (index.partial_tokens >= 0) || rest != (index.partial.extent >= 0))
    throw UserError("{}: the incomplete chunk and the number of tokens disagree", where);
  if (index.tokens > 0 && static_cast<int64_t>(index.lower.size()) != model.lower_layers)
    throw UserError("{}: state of {} lower layers, the model has {}", where, index.lower.size(), model.lower_layers);
  if (index.documents.empty() != (index.tokens == 0))
    throw UserError("{}: {} tokens and {} documents", where, index.tokens, index.documents.size());
  for (size_t i = 0; i < index.documents.size(); ++i) {
    const int64_t begin = index.documents[i].token;
    if (i == 0 ? begin != 0 : begin <= index.documents[i - 1].token || begin >= index.tokens)
      throw UserError("{}: document {} begins at token {}", where, i, begin);
  }
  return index;
}

json index_json(const MemoryIndex& index) {
  json pages = json::array(), documents = json::array(), lower = json::array();
  for (const PageIndex& page : index.pages) {
    pages.push_back({{"chunks", page.chunks},
                     {"first", page.first},
                     {"landmarks", page.landmarks},
                     {"k", page.k},
                     {"v", page.v},
                     {"tokens", page.tokens}});
  }
  for (const Document& document : index.documents) documents.push_back({{"name", document.name}, {"token", document.token}});
  for (const auto& [k, v] : index.lower) lower.push_back({{"k", tensor_json(k)}, {"v", tensor_json(v)}});
  return {{"tokens", index.tokens},         {"pages", pages}, {"partial_tokens", index.partial_tokens},
          {"documents", documents},         {"lower", lower}, {"partial", tensor_json(index.partial)},
          {"tail", tensor_json(index.tail)}};
}

void check_index(const MemoryIndex& index, const MemoryRoot& root, const ExtentFile& file) {
  const ModelConfig& m = root.model;
  const int64_t element = root.element(), landmark = m.retrieval_dim * element;
  const int64_t kv = m.chunk * m.memory_kv_heads * m.head_dim * element, ids = m.chunk * root.token_bytes;
  const auto holds = [&](int64_t id, int64_t chunk_bytes, const PageIndex& page, const char* what) {
    const int64_t bytes = file.extent(id).bytes;
    if (bytes % chunk_bytes != 0 || bytes / chunk_bytes < page.chunks || page.first > bytes / chunk_bytes - page.chunks)
      throw UserError("{}: the {} of a page have {} bytes, too few for chunks {} .. {}: the file is damaged", file.path().string(), what,
                      bytes, page.first, page.first + page.chunks);
  };
  for (const PageIndex& page : index.pages) {
    holds(page.landmarks, landmark, page, "landmarks");
    holds(page.k, kv, page, "keys");
    holds(page.v, kv, page, "values");
    holds(page.tokens, ids, page, "tokens");
  }
  const auto exactly = [&](int64_t id, int64_t bytes, const char* what) {
    if (file.extent(id).bytes != bytes)
      throw UserError("{}: {} has {} bytes instead of {}: the file is damaged", file.path().string(), what, file.extent(id).bytes, bytes);
  };
  const int64_t rest = index.tokens % m.chunk;
  if (index.partial_tokens >= 0) exactly(index.partial_tokens, rest * root.token_bytes, "the incomplete chunk");
  const auto tensor = [&](const StateTensor& t, const std::vector<int64_t>& row, int64_t least, int64_t most, int64_t size,
                          const char* what) {
    if (t.extent < 0) {
      if (least > 0) throw UserError("{}: {} is missing", file.path().string(), what);
      return;
    }
    std::vector<int64_t> wanted = {1, t.shape.size() > 1 ? t.shape[1] : 0};
    wanted.insert(wanted.end(), row.begin(), row.end());
    if (t.shape != wanted || wanted[1] < least || wanted[1] > most)
      throw UserError("{}: {} has the wrong shape: the file is damaged or of another model", file.path().string(), what);
    int64_t bytes = size;
    for (const int64_t n : t.shape) bytes *= n;  // each bounded by the model's sizes and the text
    exactly(t.extent, bytes, what);
  };
  const int64_t window = std::min(index.tokens, m.window - 1), reach = std::min(index.tokens, m.upper_reach());
  for (const auto& [k, v] : index.lower) {
    tensor(k, {m.kv_heads, m.head_dim}, window, window, element, "the state of a lower layer");
    tensor(v, {m.kv_heads, m.head_dim}, window, window, element, "the state of a lower layer");
  }
  tensor(index.partial, {m.d_model}, rest, rest, 4, "the state of the incomplete chunk");
  tensor(index.tail, {m.d_model}, reach, reach, 4, "the tail");
}

}  // namespace

int64_t MemoryIndex::chunks() const {
  int64_t total = 0;
  for (const PageIndex& page : pages) total += page.chunks;
  return total;
}

std::vector<int64_t> MemoryIndex::extents() const {
  std::set<int64_t> ids = {partial_tokens, partial.extent, tail.extent};
  for (const PageIndex& page : pages) ids.insert({page.landmarks, page.k, page.v, page.tokens});
  for (const auto& [k, v] : lower) ids.insert({k.extent, v.extent});
  ids.erase(-1);
  return {ids.begin(), ids.end()};
}

std::string MemoryRoot::to_json() const {
  json root = {{"format", "cairn.memory"},
               {"version", kVersion},
               {"cairn", CAIRN_VERSION},
               {"model", {{"fingerprint", fingerprint}, {"config", json::parse(model.to_json())}}},
               {"tokenizer", {{"fingerprint", tokenizer_fingerprint}, {"kind", tokenizer_kind}}},
               {"compute", compute},
               {"token_bytes", token_bytes},
               {"memory", memory ? index_json(*memory) : json()},
               {"reading", json()}};
  if (reading) {
    json sources = json::array();
    for (const auto& source : reading->sources) sources.push_back({{"path", source.path}, {"bytes", source.bytes}});
    json entry = index_json(reading->memory);
    entry["sources"] = sources;
    entry["source"] = reading->source;
    entry["offset"] = reading->offset;
    entry["skip"] = reading->skip;
    root["reading"] = entry;
  }
  return root.dump();
}

MemoryRoot MemoryRoot::from_json(std::string_view text, const std::string& source) {
  const json value = parse_json(text, source);
  const Fields fields(value, source);
  if (fields.text("format") != "cairn.memory") throw UserError("{}: is no memory file (format '{}')", source, fields.text("format"));
  if (const int64_t version = fields.number("version", 1); version > kVersion)
    throw UserError("{}: has version {} of the format, this program reads up to {}: use a newer cairn", source, version, kVersion);
  MemoryRoot root;
  const Fields model(fields.get("model"), fields.at("model"));
  root.fingerprint = model.text("fingerprint");
  root.model = ModelConfig::from_json(model.get("config").dump(), fields.at("model: config"));
  const Fields tokenizer(fields.get("tokenizer"), fields.at("tokenizer"));
  root.tokenizer_fingerprint = tokenizer.text("fingerprint");
  root.tokenizer_kind = tokenizer.text("kind");
  root.compute = fields.text("compute");
  if (root.compute != "fp32" && root.compute != "bf16")
    throw UserError("{}: compute is '{}'; known are fp32 and bf16", source, root.compute);
  root.token_bytes = fields.number("token_bytes", 2, 4);
  if (root.token_bytes == 3) throw UserError("{}: token_bytes is 3; known are 2 and 4", source);
  if (!fields.get("memory").is_null()) root.memory = parse_index(fields.get("memory"), fields.at("memory"), root.model);
  if (!fields.get("reading").is_null()) {
    const std::string where = fields.at("reading");
    const Fields reading(fields.get("reading"), where);
    ReadingIndex index;
    index.memory = parse_index(fields.get("reading"), where, root.model);
    for (const json& entry : reading.list("sources")) {
      const Fields one(entry, reading.at("sources"));
      index.sources.push_back({one.text("path"), one.number("bytes", 0)});
    }
    index.source = reading.number("source", 0, std::ssize(index.sources));
    index.offset = reading.number("offset", 0);
    index.skip = reading.number("skip", 0);
    root.reading = std::move(index);
  }
  return root;
}

void MemoryRoot::check_extents(const ExtentFile& file) const {
  if (memory) check_index(*memory, *this, file);
  if (reading) check_index(reading->memory, *this, file);
}

void splice_pages(std::vector<PageIndex>* pages, int64_t at, int64_t removed, const std::vector<PageIndex>& added) {
  std::vector<PageIndex> result;
  // The part of `page` (which begins at chunk `begin`) that lies in from .. to.
  const auto keep = [&](const PageIndex& page, int64_t begin, int64_t from, int64_t to) {
    const int64_t first = std::max(begin, from), last = std::min(begin + page.chunks, to);
    if (first >= last) return;
    PageIndex part = page;
    part.first += first - begin;
    part.chunks = last - first;
    result.push_back(part);
  };
  const auto each = [&](int64_t from, int64_t to) {
    int64_t begin = 0;
    for (const PageIndex& page : *pages) {
      keep(page, begin, from, to);
      begin += page.chunks;
    }
  };
  each(0, at);
  result.insert(result.end(), added.begin(), added.end());
  each(at + removed, kMost);
  *pages = std::move(result);
}

}  // namespace cairn
