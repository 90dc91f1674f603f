// Reading text files into a memory file: tokenizing runs ahead on threads of its own while the lower half reads, full pages go to the file
// and leave main memory, and every commit is a point from which a killed reading goes on (docs/algorithm.md section 4, point 2).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "cairn/infer/memory_file.h"
#include "cairn/infer/reader.h"
#include "cairn/infer/shared_reading.h"

namespace cairn {

struct ReadTextOptions {
  std::vector<fs::path> files;  // documents are separated by NUL bytes; each file ends one
  int threads = 0;              // of the tokenizer; 0: all cores
  double commit_seconds = 5;    // at most so often (and at full pages only)
};

struct ReadTextProgress {
  int64_t tokens = 0;                       // of the text, what was read before included
  int64_t bytes_done = 0, bytes_total = 0;  // of the files; total 0: not known
};

struct ReadTextResult {
  int64_t tokens = 0, new_tokens = 0;  // of the text; read by this call
  bool finished = false;               // false: stopped by `progress`; the same call goes on
};

// Reads the files behind the file's memory (an empty one at first). A reading that was killed or stopped goes on if the files are the same;
// UserError if they are others. The file's memory changes at the end, in one commit: until then readers see the old one. progress returns
// false to stop. ResourceError: the disk is full (the file then holds its last commit), or will be, by the tokens a byte of the first
// megabyte (before anything is read). others: processes that read along (in SharedReading::follow, until the caller ends that); the file
// holds what one process would have written, in pages cut by shares.
ReadTextResult read_text(const Reader& reader, MemoryFile& file, std::shared_ptr<const Tokenizer> tokenizer, const ReadTextOptions& options,
                         const std::function<bool(const ReadTextProgress&)>& progress = {}, SharedReading* others = nullptr);

// Whether the file holds an unfinished reading of other files than these (or of changed ones).
bool reads_other_files(const MemoryFile& file, const std::vector<fs::path>& files);

}  // namespace cairn
