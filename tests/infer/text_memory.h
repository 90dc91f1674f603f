// Texts of random words and their memories, for tests of memory files.
#pragma once

#include <ATen/ops/empty.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "cairn/infer/edit.h"
#include "cairn/infer/memory_file.h"
#include "core/temp_folder.h"
#include "infer/random_model.h"

namespace cairn {

struct Setting {
  explicit Setting(uint64_t seed, at::ScalarType compute = at::kFloat) : random(seed), config(random_config(random)) {
    reader = std::make_unique<Reader>(model = random_model(config, seed), ReaderOptions{compute, random.chance(.5) ? 0 : 64, 0});
    std::vector<std::string> words;
    for (int i = 1; i < config.vocab; ++i) words.push_back("w" + std::to_string(i));
    tokenizer = make_word_tokenizer(words);
    maker = memory_maker("0123456789abcdef", config, *tokenizer, compute);
  }

  std::vector<int32_t> ids(int64_t count) {
    std::vector<int32_t> made(count);
    for (int32_t& id : made) id = static_cast<int32_t>(1 + random.below(config.vocab - 1));
    return made;
  }

  // The text read by the reader at once.
  TextMemory remember(const std::vector<int32_t>& text, std::vector<Document> documents = {{"a", 0}}) const {
    TextMemory memory;
    memory.state = reader->new_reader_state(1);
    memory.tokens.append(text);
    memory.documents = std::move(documents);
    if (!text.empty()) reader->read(*memory.state, tensor(text));
    return memory;
  }

  static at::Tensor tensor(const std::vector<int32_t>& ids) {
    const at::Tensor result = at::empty({1, std::ssize(ids)}, at::kLong);
    std::copy(ids.begin(), ids.end(), result.data_ptr<int64_t>());
    return result;
  }

  // Logits of a question behind the text, which stays as it is.
  at::Tensor ask(const TextMemory& text, const std::vector<int32_t>& question) const {
    return reader->advance(*text.state->fork(), tensor(question));
  }

  Random random;
  ModelConfig config;
  std::shared_ptr<const Model> model;
  std::unique_ptr<Reader> reader;
  std::shared_ptr<const Tokenizer> tokenizer;
  MemoryMaker maker;
};

inline std::vector<int32_t> ids_of(const TextMemory& text) {
  std::vector<int32_t> ids(text.tokens.size());
  text.tokens.read(0, ids);
  return ids;
}

inline std::string as_text(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) { return tokenizer.decode(ids); }

inline void write_text(const fs::path& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

}  // namespace cairn
