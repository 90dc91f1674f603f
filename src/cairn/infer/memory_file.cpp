#include "cairn/infer/memory_file.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <map>
#include <set>
#include <utility>

#include "cairn/core/error.h"
#include "cairn/core/files.h"
#include "cairn/ops/step/kernels.h"

namespace cairn {
namespace {

at::ScalarType dtype_of(const MemoryRoot& root) { return root.compute == "fp32" ? at::kFloat : at::kBFloat16; }

std::span<const uint8_t> bytes_of(const at::Tensor& contiguous) {
  return {static_cast<const uint8_t*>(contiguous.const_data_ptr()), static_cast<size_t>(contiguous.nbytes())};
}

// A tensor over mapped bytes, which live as long as it does.
at::Tensor over(std::shared_ptr<uint8_t> bytes, int64_t offset, std::vector<int64_t> shape, at::ScalarType dtype) {
  uint8_t* data = bytes.get() + offset;
  return at::from_blob(
      data, shape, [bytes = std::move(bytes)](void*) {}, at::TensorOptions().dtype(dtype));
}

// The same bytes where a GPU reads them while the pointer lives.
std::shared_ptr<uint8_t> registered_with_gpu(std::shared_ptr<uint8_t> bytes, int64_t size, const fs::path& path) {
  const StepKernels* own = step_kernels();
  const std::string problem =
      own == nullptr || own->register_host == nullptr ? "built without CUDA" : own->register_host(bytes.get(), size);
  if (!problem.empty()) {
    throw ResourceError("{}: {} of the mapped file cannot be shown to the GPU ({}); use --memory-on host, which copies it to pinned memory",
                        path.string(), format_bytes(static_cast<double>(size)), problem);
  }
  uint8_t* const data = bytes.get();
  return {data, [bytes = std::move(bytes)](uint8_t* p) { step_kernels()->unregister_host(p); }};
}

}  // namespace

TokenFetch TextMemory::fetch() const {
  return [this](int64_t, int64_t begin, std::span<int32_t> out) { tokens.read(begin, out); };
}

int64_t TextMemory::document_of(int64_t token) const {
  if (token < 0 || token >= tokens.size()) return -1;
  const auto after =
      std::upper_bound(documents.begin(), documents.end(), token, [](int64_t t, const Document& document) { return t < document.token; });
  return after - documents.begin() - 1;
}

MemoryMaker memory_maker(const std::string& fingerprint, const ModelConfig& model, const Tokenizer& tokenizer, at::ScalarType compute) {
  return {fingerprint, model, tokenizer.fingerprint(), tokenizer.kind(), tokenizer.vocab_size(), compute};
}

MemoryFile MemoryFile::create(const fs::path& path, const MemoryMaker& maker) {
  MemoryFile file(ExtentFile::create(path));
  file.root_.fingerprint = maker.fingerprint;
  file.root_.model = maker.model;
  file.root_.tokenizer_fingerprint = maker.tokenizer_fingerprint;
  file.root_.tokenizer_kind = maker.tokenizer_kind;
  file.root_.compute = maker.compute == at::kFloat ? "fp32" : "bf16";
  file.root_.token_bytes = maker.vocab <= 65536 ? 2 : 4;
  return file;
}

MemoryFile MemoryFile::open(const fs::path& path, bool writable) {
  MemoryFile file(ExtentFile::open(path, writable));
  file.root_ = MemoryRoot::from_json(file.file_->root(), path.string());
  file.root_.check_extents(*file.file_);
  return file;
}

void MemoryFile::require_maker(const MemoryMaker& maker) const {
  const std::string name = path().string();
  if (root_.fingerprint != maker.fingerprint)
    throw UserError("{}: was made by another model (fingerprint {}, this model has {}); read the text again with this model", name,
                    root_.fingerprint, maker.fingerprint);
  if (root_.tokenizer_fingerprint != maker.tokenizer_fingerprint)
    throw UserError("{}: was made with another tokenizer (fingerprint {}, now {})", name, root_.tokenizer_fingerprint,
                    maker.tokenizer_fingerprint);
  if ((root_.compute == "fp32") != (maker.compute == at::kFloat))
    throw UserError("{}: holds {} numbers; use --precision {}", name, root_.compute, root_.compute);
}

void MemoryFile::verify() const {
  for (int64_t id = 0; id < file_->extents(); ++id) {
    if (file_->holds(id)) file_->verify(id);
  }
}

at::Tensor MemoryFile::tensor(const StateTensor& stored, at::ScalarType dtype, at::Device device) const {
  if (stored.extent < 0) return {};
  file_->verify(stored.extent);
  return over(file_->map(stored.extent), 0, stored.shape, dtype).clone().to(device);
}

std::vector<int32_t> MemoryFile::ids(int64_t extent, int64_t count) const {
  std::vector<int32_t> result(count);
  if (count == 0) return result;
  file_->verify(extent);
  TokenPages pages(root_.token_bytes);
  pages.adopt(file_->map(extent), 0, count);
  pages.read(0, result);
  return result;
}

TextMemory MemoryFile::load_end(const MemoryIndex& index, at::Device device) const {
  const int64_t chunks = index.chunks(), chunk = root_.model.chunk;
  TextMemory text;
  text.tokens = TokenPages(root_.token_bytes);
  text.documents = index.documents;
  text.state = std::make_unique<ReaderState>(root_.model, 1, 0);
  ReaderState& state = *text.state;
  state.end = index.tokens;
  state.memory = ChunkMemory(root_.model, 1, chunks);
  for (const auto& [k, v] : index.lower) {
    state.lower.push_back({tensor(k, dtype_of(root_), device), tensor(v, dtype_of(root_), device)});
  }
  state.partial = tensor(index.partial, at::kFloat, device);
  state.tail = tensor(index.tail, at::kFloat, device);
  text.tokens.append(ids(index.partial_tokens, index.tokens - chunks * chunk));
  return text;
}

TextMemory MemoryFile::load(const MemoryIndex& index, bool mapped, at::Device device, KeysOn keys, EightBit eight_bit,
                            ChunkRange share) const {
  CAIRN_CHECK(!eight_bit.kv || keys != KeysOn::kMapped, "8-bit keys and values are not what the file holds");
  TextMemory text = load_end(index, device);
  const ModelConfig& m = root_.model;
  const int64_t element = root_.element(), chunk = m.chunk, dr = m.retrieval_dim / m.retrieval_heads;
  share.end = std::min(share.end, index.chunks());
  CAIRN_CHECK(share.begin >= 0 && share.begin <= share.end, "chunks {} .. {} of {}", share.begin, share.end, index.chunks());
  ChunkMemory memory(m, 1, share.begin);
  memory.place_keys(keys);
  memory.keep_as(eight_bit);
  const KeysOn first = eight_bit.kv ? KeysOn::kDevice : keys;  // rounded there, then placed
  TokenPages tokens(root_.token_bytes);
  std::set<int64_t> verified;
  std::map<int64_t, std::shared_ptr<uint8_t>> registered;  // extents that several pages share are registered once
  const auto place = [&](int64_t extent, const PageIndex& page, std::vector<int64_t> row, KeysOn where) {
    int64_t numbers = 1;
    for (const int64_t n : row) numbers *= n;
    if (!mapped && verified.insert(extent).second) file_->verify(extent);
    row.insert(row.begin(), {int64_t{1}, page.chunks});
    std::shared_ptr<uint8_t> bytes;
    if (!device.is_cpu() && where == KeysOn::kMapped) {
      std::shared_ptr<uint8_t>& once = registered[extent];
      if (once == nullptr) once = registered_with_gpu(file_->map(extent), file_->extent(extent).bytes, file_->path());
      bytes = once;
    } else {
      bytes = file_->map(extent);
    }
    const at::Tensor mapped_tensor = over(std::move(bytes), page.first * numbers * element, row, dtype_of(root_));
    if (device.is_cpu()) return mapped ? mapped_tensor : mapped_tensor.clone();
    if (where == KeysOn::kMapped) return mapped_tensor;
    if (where == KeysOn::kHost) return at::empty(row, mapped_tensor.options().pinned_memory(true)).copy_(mapped_tensor);
    return mapped_tensor.to(device);
  };
  int64_t begin = 0;  // chunks before the page
  for (const PageIndex& page : index.pages) {
    const std::vector<int64_t> row = {chunk, m.memory_kv_heads, m.head_dim};
    const int64_t from = std::max(share.begin, begin), to = std::min(share.end, begin + page.chunks);
    if (from < to) {
      PageIndex part = page;
      part.first += from - begin;
      part.chunks = to - from;
      memory.adopt(place(page.landmarks, part, {m.retrieval_heads, dr}, KeysOn::kDevice), place(page.k, part, row, first),
                   place(page.v, part, row, first));
    }
    tokens.adopt(file_->map(page.tokens), page.first * chunk, page.chunks * chunk);
    begin += page.chunks;
  }
  tokens.adopt(text.tokens, 0, text.tokens.size());
  text.state->memory = std::move(memory);
  text.tokens = std::move(tokens);
  return text;
}

StateTensor MemoryFile::add_tensor(const at::Tensor& tensor) {
  if (!tensor.defined() || tensor.numel() == 0) return {};
  const at::Tensor here = tensor.to(at::kCPU).contiguous();
  return {file_->add(bytes_of(here)), {here.sizes().begin(), here.sizes().end()}};
}

std::vector<PageIndex> MemoryFile::add_chunks(const ChunkMemory& memory, int64_t first, int64_t count, const TokenPages& tokens,
                                              int64_t first_token, bool as_cut) {
  std::vector<PageIndex> pages;
  for (int64_t done = 0; done < count;) {
    const int64_t n = std::min({count - done, ChunkMemory::kLargestPage, as_cut ? memory.page_rest(first + done) : count});
    const ChunkEncoding chunks = memory.copy(first + done, n);
    const int64_t chunk = root_.model.chunk;
    // What was 8-bit is written in the file's numbers.
    const auto number = [&](const at::Tensor& x) { return x.to(at::kCPU, dtype_of(root_)); };
    pages.push_back(
        add_page({number(chunks.landmarks), number(chunks.k), number(chunks.v)}, tokens.bytes(first_token + done * chunk, n * chunk)));
    done += n;
  }
  return pages;
}

PageIndex MemoryFile::add_page(const ChunkEncoding& chunks, std::span<const uint8_t> ids) {
  PageIndex page;
  page.chunks = chunks.landmarks.size(1);
  page.landmarks = file_->add(bytes_of(chunks.landmarks.contiguous()));
  page.k = file_->add(bytes_of(chunks.k.contiguous()));
  page.v = file_->add(bytes_of(chunks.v.contiguous()));
  page.tokens = file_->add(ids);
  return page;
}

void MemoryFile::set_state(MemoryIndex* index, const ReaderState& state, std::span<const int32_t> partial_ids) {
  index->tokens = state.end;
  index->lower.clear();
  for (const WindowCache& cache : state.lower) index->lower.emplace_back(add_tensor(cache.k), add_tensor(cache.v));
  index->partial = add_tensor(state.partial);
  index->tail = add_tensor(state.tail);
  index->partial_tokens = -1;
  if (partial_ids.empty()) return;
  TokenPages ids(root_.token_bytes);
  ids.append(partial_ids);
  index->partial_tokens = file_->add(ids.bytes(0, ids.size()));
}

void MemoryFile::merge_small_pages(MemoryIndex* index) {
  const int64_t full = ChunkMemory::kLargestPage;
  if (std::ssize(index->pages) <= 64 + 2 * (index->chunks() / full)) return;
  MemoryIndex part = *index;
  std::vector<PageIndex> merged;
  for (size_t i = 0; i < index->pages.size();) {
    int64_t chunks = 0;
    size_t j = i;
    while (j < index->pages.size() && chunks + index->pages[j].chunks <= full) chunks += index->pages[j++].chunks;
    if (j <= i + 1) {
      merged.push_back(index->pages[i++]);
      continue;
    }
    part.pages.assign(index->pages.begin() + i, index->pages.begin() + j);
    part.tokens = chunks * root_.model.chunk;
    part.partial_tokens = -1;
    part.lower.clear();
    part.partial = part.tail = {};
    const TextMemory text = load(part, /*mapped=*/true, at::kCPU);
    const std::vector<PageIndex> one = add_chunks(text.state->memory, 0, chunks, text.tokens, 0);
    merged.insert(merged.end(), one.begin(), one.end());
    i = j;
  }
  index->pages = std::move(merged);
}

void MemoryFile::commit() {
  std::set<int64_t> named;
  for (const MemoryIndex* index : {root_.memory ? &*root_.memory : nullptr, root_.reading ? &root_.reading->memory : nullptr}) {
    if (index == nullptr) continue;
    const std::vector<int64_t> ids = index->extents();
    named.insert(ids.begin(), ids.end());
  }
  for (int64_t id = 0; id < file_->extents(); ++id) {
    if (file_->holds(id) && named.count(id) == 0) file_->remove(id);
  }
  file_->commit(root_.to_json());
}

void MemoryFile::rollback() {
  file_->rollback();
  root_ = MemoryRoot::from_json(file_->root(), path().string());
}

}  // namespace cairn
