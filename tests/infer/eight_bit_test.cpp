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
    EXPECT_LE(state->bytes(), Reader::state_bytes(config, batch, text.size(1), at::kFloat, kept));
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

}  // namespace
}  // namespace cairn
