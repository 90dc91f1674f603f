// The directory of a memory file (docs/formats.md, "Memory files"): what the JSON root of its extent file says, parsed and checked as
// hostile. No tensors here: the file's bytes become tensors in infer/memory_file.h.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cairn/core/extent_file.h"
#include "cairn/model/config.h"

namespace cairn {

// Chunks first .. first + chunks of extents that may hold more; pages of a memory follow each other, several may share extents.
struct PageIndex {
  int64_t chunks = 0, first = 0;
  int64_t landmarks = -1, k = -1, v = -1, tokens = -1;  // ids of extents
};

struct Document {
  std::string name;
  int64_t token = 0;  // its first token
};

// A tensor of the reader's state: [1,columns,...]; extent -1: none.
struct StateTensor {
  int64_t extent = -1;
  std::vector<int64_t> shape;
};

// A text and its memory, as extents.
struct MemoryIndex {
  int64_t tokens = 0;  // all: complete chunks and the tokens behind them
  std::vector<PageIndex> pages;
  int64_t partial_tokens = -1;  // ids of the tokens behind the last complete chunk
  std::vector<Document> documents;
  std::vector<std::pair<StateTensor, StateTensor>> lower;  // K and V of each lower layer
  StateTensor partial, tail;

  int64_t chunks() const;
  std::vector<int64_t> extents() const;  // every id once
};

// A reading in progress: what is read so far and where it goes on.
struct ReadingIndex {
  MemoryIndex memory;
  struct Source {
    std::string path;
    int64_t bytes = 0;  // 0: not known
    bool operator==(const Source&) const = default;
  };
  std::vector<Source> sources;
  int64_t source = 0, offset = 0;  // a place where the text may be cut
  int64_t skip = 0;                // tokens behind it that are read already (a separator in front of them included)
};

struct MemoryRoot {
  std::string fingerprint;  // of the model
  ModelConfig model;
  std::string tokenizer_fingerprint, tokenizer_kind;
  std::string compute = "fp32";  // fp32 | bf16
  int64_t token_bytes = 2;       // 2 | 4
  std::optional<MemoryIndex> memory;
  std::optional<ReadingIndex> reading;

  int64_t element() const { return compute == "fp32" ? 4 : 2; }
  std::string to_json() const;
  // UserError naming `source` and the member for anything missing, of another kind, out of range or of a newer version.
  static MemoryRoot from_json(std::string_view text, const std::string& source);
  // Every extent is there and as large as shapes and counts say; UserError otherwise.
  void check_extents(const ExtentFile& file) const;
};

// Replaces chunks at .. at + removed by `added`; pages that are cut keep their extents and are referred to in two parts.
void splice_pages(std::vector<PageIndex>* pages, int64_t at, int64_t removed, const std::vector<PageIndex>& added);

}  // namespace cairn
