// Reading and asking with a memory of 8-bit rows: logits are those of the rows that it stands for, and edits come back bit by bit.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include "cairn/infer/reader.h"
#include "infer/text_memory.h"

namespace cairn {
namespace {

ModelConfig eight_bit_config(Random& random) {
  ModelConfig c;
  do c = random_config(random);
  while (c.chunk < 3);
  c.chunk = 8;
  return c;
}

Reader reader_of(const std::shared_ptr<const Model>& model, EightBit kept) {
  ReaderOptions options;
  options.eight_bit = kept;
  return Reader(model, options);
}

TEST(EightBitReader, LogitsAreThoseOfTheDequantizedMemory) {
  int different = 0;
  for (uint64_t seed = 0; seed < 24; ++seed) {
    Random random(seed, 81);
    const ModelConfig config = eight_bit_config(random);
    const EightBit kept{seed % 3 != 1, seed % 3 != 0};
    SCOPED_TRACE(fmt::format("seed {}: {}", seed, describe(config)));
    const auto model = random_model(config, seed);
    const Reader exact(model), reader = reader_of(model, kept);
    const int64_t batch = 1 + random.below(2);
    const at::Tensor text = random_tokens(random, batch, 8 * (20 + random.below(60)), config.vocab),
                     question = random_tokens(random, batch, 7, config.vocab);  // completes no chunk
    const auto state = reader.new_reader_state(batch), plain = exact.new_reader_state(batch);
    reader.read(*state, text);
    exact.read(*plain, text);
    EXPECT_EQ(state->memory.bytes() < plain->memory.bytes(), kept.any());
    const int64_t slots = plain->memory.bytes() / ChunkMemory::bytes_for(config, batch, 1, 4);
    EXPECT_EQ(state->memory.bytes(), ChunkMemory::bytes_for(config, batch, slots, 4, kept));
    // The same state with a memory of what the rows stand for.
    const auto dequantized = plain->fork();
    dequantized->memory = ChunkMemory(config, batch);
    for (int64_t at = 0; at < state->memory.chunks();) {
      const int64_t n = state->memory.page_rest(at);
      const ChunkEncoding part = state->memory.copy(at, n);
      dequantized->memory.adopt(part.landmarks, part.k.unflatten(1, {n, config.chunk}), part.v.unflatten(1, {n, config.chunk}));
      at += n;
    }
    const auto ask = [&](const Reader& by, const ReaderState& of) {
      const auto asked = of.fork();
      std::vector<at::Tensor> logits = {by.advance(*asked, question.narrow(1, 0, 4))};
      for (int64_t t = 4; t < 7; ++t) logits.push_back(by.advance(*asked, question.narrow(1, t, 1)));
      return at::cat(logits, 1);
    };
    const at::Tensor got = ask(reader, *state);
    EXPECT_TRUE(at::equal(got, ask(exact, *dequantized)));
    different += at::equal(got, ask(exact, *plain)) ? 0 : 1;
    // An edit that is taken back.
    const at::Tensor other = random_tokens(random, batch, text.size(1), config.vocab);
    const TokenFetch fetch = [&](int64_t row, int64_t begin, std::span<int32_t> out) {
      for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<int32_t>(other[row][begin + static_cast<int64_t>(i)].item<int64_t>());
    };
    const ChunkEncoding before = state->memory.copy(0, state->memory.chunks());
    const auto replaced = reader.rewrite(*state, 30, 70, fetch);
    EXPECT_FALSE(at::equal(state->memory.copy(0, state->memory.chunks()).k, before.k));
    reader.restore(*state, replaced);
    const ChunkEncoding after = state->memory.copy(0, state->memory.chunks());
    EXPECT_TRUE(at::equal(after.k, before.k) && at::equal(after.v, before.v) && at::equal(after.landmarks, before.landmarks));
  }
  EXPECT_GE(different, 20);  // 8 bits are not free
}

TEST(EightBitReader, AFileIsRoundedWhenItIsOpened) {
  Random random(5, 82);
  const ModelConfig config = eight_bit_config(random);
  const auto model = random_model(config, 5);
  const Reader plain(model), reader = reader_of(model, {true, true});
  const TempFolder folder(quick_disk());
  const MemoryMaker maker{"0000000000000000", config, "0000000000000000", "none", config.vocab, at::kFloat};
  const at::Tensor ids = random_tokens(random, 1, 8 * 90, config.vocab), question = random_tokens(random, 1, 5, config.vocab);
  TextMemory text;
  text.tokens = TokenPages(2);
  text.documents = {{"a", 0}};
  std::vector<int32_t> numbers(ids.const_data_ptr<int64_t>(), ids.const_data_ptr<int64_t>() + ids.numel());
  text.tokens.append(numbers);
  text.state = plain.new_reader_state(1);
  plain.read(*text.state, ids);
  save_memory(folder / "a.memory", maker, text);
  const MemoryFile file = MemoryFile::open(folder / "a.memory", false);
  const auto fresh = reader.new_reader_state(1);
  reader.read(*fresh, ids);
  for (const bool mapped : {true, false}) {
    const TextMemory opened = file.load(*file.root().memory, mapped, at::kCPU, KeysOn::kDevice, {true, true});
    const int64_t n = fresh->memory.chunks();
    EXPECT_TRUE(at::equal(opened.state->memory.copy(0, n).k, fresh->memory.copy(0, n).k));
    EXPECT_EQ(opened.state->memory.bytes(), ChunkMemory::bytes_for(config, 1, n, 4, {true, true}));
    EXPECT_LE(relative_rms(reader.advance(*opened.state->fork(), question), reader.advance(*fresh->fork(), question)), 1e-5);
  }
}

// Insertions and deletions move chunks and encode some again: what a fresh reading of the text as it is now gives. A number that rounding
// moved may fall to the neighbouring step.
TEST(EightBitReader, TextsAreEditedAndJoined) {
  for (uint64_t seed = 0; seed < 8; ++seed) {
    Random random(seed, 83);
    ModelConfig config;
    do config = eight_bit_config(random);
    while (config.window < 5);
    SCOPED_TRACE(fmt::format("seed {}: {}", seed, describe(config)));
    const Reader reader = reader_of(random_model(config, seed), {seed % 2 == 0, seed % 4 < 3});
    const auto remember = [&](const at::Tensor& ids) {
      TextMemory text;
      text.tokens.append(std::vector<int32_t>(ids.const_data_ptr<int64_t>(), ids.const_data_ptr<int64_t>() + ids.numel()));
      text.documents = {{"a", 0}};
      text.state = reader.new_reader_state(1);
      reader.read(*text.state, ids);
      return text;
    };
    const at::Tensor ids = random_tokens(random, 1, 8 * 40, config.vocab), other = random_tokens(random, 1, 8 * 3, config.vocab),
                     question = random_tokens(random, 1, 5, config.vocab);
    const auto close = [&](const TextMemory& got, const at::Tensor& now) {
      const TextMemory want = remember(now);
      ASSERT_EQ(got.state->memory.chunks(), want.state->memory.chunks());
      const int64_t n = want.state->memory.chunks();
      const ChunkEncoding a = got.state->memory.copy(0, n), b = want.state->memory.copy(0, n);
      EXPECT_LE(relative_rms(a.k, b.k), 1e-3);
      EXPECT_LE(relative_rms(a.v, b.v), 1e-3);
      EXPECT_LE(relative_rms(a.landmarks, b.landmarks), 1e-3);
      const at::Tensor logits = reader.advance(*got.state->fork(), question);
      EXPECT_TRUE(logits.isfinite().all().item<bool>());
    };
    TextMemory text = remember(ids);
    const std::vector<int32_t> fresh(other.const_data_ptr<int64_t>(), other.const_data_ptr<int64_t>() + other.numel());
    insert_tokens(reader, text, 8 * 7, fresh);
    close(text, at::cat({ids.narrow(1, 0, 56), other, ids.narrow(1, 56, ids.size(1) - 56)}, 1));
    delete_tokens(reader, text, 8 * 7, 24);
    close(text, ids);
    int64_t padding = 0;
    const TextMemory joined = join_texts(reader, text, remember(other), &padding);
    EXPECT_EQ(padding, 0);
    close(joined, at::cat({ids, other}, 1));
  }
}

}  // namespace
}  // namespace cairn
