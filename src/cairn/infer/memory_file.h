// A text and its memory: in use (TextMemory) and as a file (MemoryFile; docs/formats.md, "Memory files").
//
// The file changes by transactions: what is written joins it at commit(), and a kill at any moment leaves the state before or after. In
// use, keys, values, landmarks and token ids lie in the mapped file (nothing is copied; writes stay in this process) or in main memory, or
// on the GPU: the logits are equal.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cairn/core/extent_file.h"
#include "cairn/infer/reader.h"
#include "cairn/memory/memory_root.h"
#include "cairn/memory/token_pages.h"
#include "cairn/text/tokenizer.h"

namespace cairn {

struct TextMemory {
  std::unique_ptr<ReaderState> state;  // of one row
  TokenPages tokens{2};                // of the whole text: tokens.size() == state->end
  std::vector<Document> documents;

  TokenFetch fetch() const;  // for Reader::rewrite and the like; valid while this object stays where it is
  // The document that holds a token; -1: behind the text.
  int64_t document_of(int64_t token) const;
};

// Chunks begin .. end - 1 of a memory.
struct ChunkRange {
  int64_t begin = 0, end = std::numeric_limits<int64_t>::max();
};

// What a memory must have been made by to be used: stated in the file, compared at open.
struct MemoryMaker {
  std::string fingerprint;  // of the model
  ModelConfig model;
  std::string tokenizer_fingerprint, tokenizer_kind;
  int64_t vocab = 0;  // of the tokenizer
  at::ScalarType compute = at::kFloat;
};
MemoryMaker memory_maker(const std::string& fingerprint, const ModelConfig& model, const Tokenizer& tokenizer, at::ScalarType compute);

class MemoryFile {
 public:
  // A new file that appears at the first commit.
  static MemoryFile create(const fs::path& path, const MemoryMaker& maker);
  // UserError for what is no memory file, is damaged, or is in use.
  static MemoryFile open(const fs::path& path, bool writable);
  // UserError naming what differs if the memory was made by another model, tokenizer or precision.
  void require_maker(const MemoryMaker& maker) const;

  const fs::path& path() const { return file_->path(); }
  const MemoryRoot& root() const { return root_; }
  MemoryRoot& root() { return root_; }  // what the next commit() writes
  const ExtentFile& extents() const { return *file_; }
  void verify() const;  // every checksum; UserError

  // The memory as it is in the file. mapped false: in main memory, checksums compared. A device that is no CPU gets copies, of keys and
  // values only if `keys` says so. What is to be kept as 8-bit rows is rounded now and copied; keys and values then cannot stay in the
  // mapping (kMapped). ResourceError: keys and values in the mapping cannot be registered with the GPU.
  // share: only those chunks are in the state's memory (a process's part of a shared one); token ids are always those of the whole text.
  TextMemory load(const MemoryIndex& index, bool mapped, at::Device device, KeysOn keys = KeysOn::kDevice, EightBit eight_bit = {},
                  ChunkRange share = {}) const;
  // The same without chunks and token ids: enough to read on. state->memory is empty and begins behind the last complete chunk.
  TextMemory load_end(const MemoryIndex& index, at::Device device) const;

  // Writes chunks first .. first + count (absolute) of `memory` with their token ids, as pages of at most ChunkMemory::kLargestPage chunks.
  // as_cut: as they are cut there, so that what is loaded gives the same bits (scores are computed page by page).
  std::vector<PageIndex> add_chunks(const ChunkMemory& memory, int64_t first, int64_t count, const TokenPages& tokens, int64_t first_token,
                                    bool as_cut = false);
  // The same for chunks that were copied to main memory, at most ChunkMemory::kLargestPage of them, and the bytes of their token ids. The
  // only member that a thread of its own may call, while no other is in use.
  PageIndex add_page(const ChunkEncoding& chunks, std::span<const uint8_t> ids);
  // Makes the state behind the last chunk that of `state`; partial_ids: tokens behind the last complete chunk. What was there is removed.
  void set_state(MemoryIndex* index, const ReaderState& state, std::span<const int32_t> partial_ids);
  // Joins runs of small pages, so that many edits do not leave a memory in crumbs.
  void merge_small_pages(MemoryIndex* index);
  // Extents that neither root names are given up; then both become the file's state.
  void commit();
  void rollback();

 private:
  explicit MemoryFile(std::unique_ptr<ExtentFile> file) : file_(std::move(file)) {}
  StateTensor add_tensor(const at::Tensor& tensor);
  at::Tensor tensor(const StateTensor& stored, at::ScalarType dtype, at::Device device) const;
  std::vector<int32_t> ids(int64_t extent, int64_t count) const;

  std::unique_ptr<ExtentFile> file_;
  MemoryRoot root_;
};

}  // namespace cairn
