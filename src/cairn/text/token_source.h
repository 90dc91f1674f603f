// A long row of tokens with random access: haystacks and training text. Deterministic and thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cairn/core/files.h"
#include "cairn/text/tokenizer.h"

namespace cairn {

class TokenSource {
 public:
  virtual ~TokenSource() = default;
  virtual int64_t size() const = 0;                                    // tokens; kUnlimited for generated text
  virtual void read(int64_t begin, std::span<int32_t> out) const = 0;  // tokens begin .. begin+out.size(); a bug if outside
  virtual std::string name() const = 0;                                // for reports
  static constexpr int64_t kUnlimited = int64_t{1} << 62;
};

// Tokens held in memory.
std::shared_ptr<const TokenSource> make_memory_source(std::vector<int32_t> tokens, std::string name);
// RULER's noise line ("The grass is green. ..."), repeated for ever.
std::shared_ptr<const TokenSource> make_noise_source(std::shared_ptr<const Tokenizer> tokenizer);
// Generated prose that never repeats: token i is computed without the ones before it. Sentences from word lists of our own.
std::shared_ptr<const TokenSource> make_prose_source(std::shared_ptr<const Tokenizer> tokenizer, uint64_t seed);
// A token shard (see shards.h): `documents` separated by the tokenizer's encoding of a blank line.
std::shared_ptr<const TokenSource> open_shard_source(const fs::path& path, const Tokenizer& tokenizer);
// "noise", "prose", "prose:SEED", a *.shard file, or text files (encoded on the spot, bzip2 not supported); UserError otherwise.
std::shared_ptr<const TokenSource> open_token_source(const std::string& name, std::shared_ptr<const Tokenizer> tokenizer);

}  // namespace cairn
