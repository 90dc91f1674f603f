#include "cairn/infer/edit.h"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "cairn/core/error.h"

namespace cairn {
namespace {

void check_ids(const Reader& reader, std::span<const int32_t> ids) {
  for (const int32_t id : ids) {
    if (id < 0 || id >= reader.vocab()) throw UserError("token id {} is outside of the vocabulary of {}", id, reader.vocab());
  }
}

int64_t chunk_of(const Reader& reader) { return reader.model().config().chunk; }

void require_grid(const Reader& reader, const char* what, int64_t value) {
  const int64_t chunk = chunk_of(reader);
  if (value % chunk != 0)
    throw UserError("{} {} is not on the chunk grid; the nearest multiples of {} are {} and {}", what, value, chunk, value / chunk * chunk,
                    (value / chunk + 1) * chunk);
}

// Tokens begin .. begin + removed of the grid become `ids`; chunks that feel it are encoded again.
ChunkChange splice(const Reader& reader, TextMemory& text, int64_t begin, int64_t removed, std::span<const int32_t> ids) {
  const ModelConfig& config = reader.model().config();
  const int64_t chunk = config.chunk, at = begin / chunk, out = removed / chunk, in = std::ssize(ids) / chunk;
  ReaderState& state = *text.state;
  const ChunkMemory& old = state.memory;
  const int64_t behind = old.end_chunk() - at - out, felt = std::min(reader.felt_chunks(), behind);
  ChunkMemory memory(config, 1);
  memory.keep_as(old.eight_bit());
  memory.adopt(old, 0, at);
  // New chunks and those that feel the change get storage of their own: the old ones may belong to others too.
  if (in + felt > 0) {
    const auto options = at::TensorOptions(reader.options().compute).device(reader.device());
    memory.append({at::zeros({1, in + felt, config.retrieval_heads, config.retrieval_dim / config.retrieval_heads}, options),
                   at::zeros({1, (in + felt) * chunk, config.memory_kv_heads, config.head_dim}, options),
                   at::zeros({1, (in + felt) * chunk, config.memory_kv_heads, config.head_dim}, options)});
  }
  memory.adopt(old, at + out + felt, behind - felt);
  state.memory = std::move(memory);
  text.tokens.splice(begin, removed, ids);
  state.end += std::ssize(ids) - removed;
  reader.reencode(state, at, at + in + felt, text.fetch());
  reader.rebuild_end(state, text.fetch());
  return {at, out + felt, in + felt, true};
}

}  // namespace

ChunkChange overwrite_tokens(const Reader& reader, TextMemory& text, int64_t begin, std::span<const int32_t> ids) {
  check_ids(reader, ids);
  const int64_t size = text.tokens.size(), count = std::ssize(ids);
  if (count == 0) throw UserError("nothing to write: the new text has no tokens");
  if (begin < 0 || begin > size - count)
    throw UserError("tokens {} .. {} are outside of the text of {} tokens", begin, begin + count, size);
  text.tokens.splice(begin, count, ids);
  const Reader::Replaced replaced = reader.rewrite(*text.state, begin, begin + count, text.fetch());
  const int64_t chunks = replaced.chunks.k.defined() ? replaced.chunks.landmarks.size(1) : 0;
  // The incomplete chunk's own tokens may have changed although no complete one did.
  return {replaced.first_chunk, chunks, chunks, replaced.end_touched};
}

ChunkChange insert_tokens(const Reader& reader, TextMemory& text, int64_t begin, std::span<const int32_t> ids) {
  check_ids(reader, ids);
  const int64_t size = text.tokens.size(), count = std::ssize(ids);
  if (count == 0) throw UserError("nothing to insert: the new text has no tokens");
  if (begin < 0 || begin > size) throw UserError("token {} is outside of the text of {} tokens", begin, size);
  require_grid(reader, "position", begin);
  require_grid(reader, "a number of tokens of", count);
  for (Document& document : text.documents) {
    if (document.token > begin || (document.token == begin && begin > 0)) document.token += count;
  }
  return splice(reader, text, begin, 0, ids);
}

ChunkChange delete_tokens(const Reader& reader, TextMemory& text, int64_t begin, int64_t count) {
  const int64_t size = text.tokens.size();
  if (count < 1) throw UserError("nothing to delete: {} tokens", count);
  if (begin < 0 || begin > size - count)
    throw UserError("tokens {} .. {} are outside of the text of {} tokens", begin, begin + count, size);
  if (count == size) throw UserError("all {} tokens would go; remove the file instead", size);
  require_grid(reader, "position", begin);
  require_grid(reader, "a number of tokens of", count);
  std::vector<Document> kept;
  for (size_t i = 0; i < text.documents.size(); ++i) {
    Document document = text.documents[i];
    const int64_t end = i + 1 < text.documents.size() ? text.documents[i + 1].token : size;
    if (document.token >= begin && end <= begin + count) continue;  // gone
    if (document.token > begin) document.token = std::max(begin, document.token - count);
    kept.push_back(std::move(document));
  }
  text.documents = std::move(kept);
  return splice(reader, text, begin, count, {});
}

TextMemory join_texts(const Reader& reader, const TextMemory& first, const TextMemory& second, int64_t* padding) {
  const int64_t chunk = chunk_of(reader), felt = std::min(reader.felt_chunks(), second.state->memory.chunks());
  TextMemory joined;
  joined.tokens = TokenPages(first.tokens.width());
  joined.tokens.adopt(first.tokens, 0, first.tokens.size());
  joined.documents = first.documents;
  joined.state = first.state->fork();
  ReaderState& state = *joined.state;
  *padding = (chunk - state.end % chunk) % chunk;
  if (*padding > 0) {
    joined.tokens.append(std::vector<int32_t>(*padding, 0));
    reader.read(state, *padding, joined.fetch());
  }
  const int64_t at = state.end;
  for (Document document : second.documents) {
    document.token += at;
    joined.documents.push_back(std::move(document));
  }
  joined.tokens.adopt(second.tokens, 0, second.tokens.size());
  if (felt > 0) state.memory.append(second.state->memory.copy(0, felt));  // storage of its own, encoded again below
  state.memory.adopt(second.state->memory, felt, second.state->memory.chunks() - felt);
  state.end = at + second.tokens.size();
  reader.reencode(state, at / chunk, at / chunk + felt, joined.fetch());
  reader.rebuild_end(state, joined.fetch());
  return joined;
}

void commit_change(MemoryFile& file, const TextMemory& text, const ChunkChange& change) {
  CAIRN_CHECK(file.root().memory.has_value());
  // What a reading in progress ends with was begun before this change and would undo it.
  if (file.root().reading)
    throw UserError("{}: a reading (--append) is not finished in it; give `cairn read` the same files again, then edit",
                    file.path().string());
  MemoryIndex index = *file.root().memory;
  const int64_t chunk = file.root().model.chunk;
  if (change.removed + change.added > 0) {
    splice_pages(&index.pages, change.at, change.removed,
                 file.add_chunks(text.state->memory, change.at, change.added, text.tokens, change.at * chunk));
  }
  const int64_t rest = text.tokens.size() % chunk;
  std::vector<int32_t> partial(rest);
  text.tokens.read(text.tokens.size() - rest, partial);
  if (change.end_changed) file.set_state(&index, *text.state, partial);
  index.documents = text.documents;
  file.merge_small_pages(&index);
  file.root().memory = std::move(index);
  file.commit();
}

void save_memory(const fs::path& path, const MemoryMaker& maker, const TextMemory& text) {
  const int64_t chunk = maker.model.chunk, chunks = text.state->memory.chunks();
  require_free_space(
      path.has_parent_path() ? path.parent_path() : fs::path("."),
      ChunkMemory::bytes_for(maker.model, 1, chunks, maker.compute == at::kFloat ? 4 : 2) + text.tokens.size() * text.tokens.width(),
      "the memory file");
  MemoryFile file = MemoryFile::create(path, maker);
  MemoryIndex index;
  index.pages = file.add_chunks(text.state->memory, 0, chunks, text.tokens, 0, /*as_cut=*/true);
  std::vector<int32_t> partial(text.tokens.size() - chunks * chunk);
  text.tokens.read(chunks * chunk, partial);
  file.set_state(&index, *text.state, partial);
  index.documents = text.documents;
  file.root().memory = std::move(index);
  file.commit();
}

}  // namespace cairn
