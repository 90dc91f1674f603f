// A memory on a GPU gives the same logits wherever its keys and values lie: on the device, in pinned host memory, in a mapped file.
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randint.h>
#include <gtest/gtest.h>

#include "cairn/core/error.h"
#include "cairn/infer/graph_decoder.h"
#include "cairn/ops/cuda/kernels.h"
#include "infer/text_memory.h"

namespace cairn {
namespace {

ModelConfig tiers_config(Random& random) {
  ModelConfig c = random_config(random);
  c.d_model = 64;
  c.head_dim = 32;
  c.heads = 2;
  c.kv_heads = 1;
  c.window = 9;
  c.chunk = 16;
  c.retrieval_dim = 64;
  c.memory_heads = 4;
  c.memory_kv_heads = 1 + random.below(2);
  c.retrieval_heads = 1;
  c.alpha = 0;
  c.exclude_window = false;
  c.retrieval_stride = "token";
  c.top_k = 1 + random.below(6);
  c.validate();
  return c;
}

class CudaTiers : public testing::Test {
 protected:
  void SetUp() override {
    if (!at::hasCUDA() || cuda_kernels() == nullptr) GTEST_SKIP() << "no GPU here, or no kernels in this program";
  }
  at::Tensor tokens(int64_t count) {
    return at::randint(1, config_.vocab, {batch_, count}, at::TensorOptions(at::kLong).device(at::kCUDA));
  }
  void make(uint64_t seed) {
    Random random(seed, 91);
    config_ = tiers_config(random);
    auto parameters = std::make_shared<Parameters>(config_, at::kCUDA);
    parameters->flat().copy_(random_model(config_, seed)->parameters()->flat());
    model_ = std::make_shared<Model>(config_, parameters);
    eight_bit_ = {seed % 4 == 1 || seed % 4 == 2, seed % 4 >= 2};
  }
  Reader reader(KeysOn keys) const {
    ReaderOptions options;
    options.compute = at::kBFloat16;
    options.keys = keys;
    options.eight_bit = eight_bit_;
    return Reader(model_, options);
  }
  // Logits of a question, of single steps behind it, and of recorded steps behind those.
  std::vector<at::Tensor> logits(const Reader& reader, const ReaderState& state, const at::Tensor& question, const at::Tensor& more) {
    const auto own = state.fork();
    std::vector<at::Tensor> made = {reader.advance(*own, question)};
    for (int64_t i = 0; i < 3; ++i) made.push_back(reader.advance_last(*own, more.narrow(1, i, 1), 1));
    EXPECT_TRUE(GraphDecoder::supports(reader, *own));
    GraphDecoder graph(reader, *own);
    for (int64_t i = 3; i < more.size(1); ++i) made.push_back(graph.advance(more.narrow(1, i, 1)).clone());
    return made;
  }
  static void expect_equal(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b, const char* what) {
    ASSERT_EQ(a.size(), b.size());
    for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(at::equal(a[i], b[i])) << what << ", part " << i;
  }
  const at::NoGradGuard no_gradient_;
  ModelConfig config_;
  int64_t batch_ = 1;
  EightBit eight_bit_;
  std::shared_ptr<const Model> model_;
};

TEST_F(CudaTiers, PinnedHostMemoryGivesTheSameLogits) {
  for (uint64_t seed = 0; seed < 8; ++seed) {
    make(seed);
    batch_ = 1 + static_cast<int64_t>(seed % 2);
    SCOPED_TRACE(describe(config_));
    const Reader near = reader(KeysOn::kDevice), far = reader(KeysOn::kHost);
    const at::Tensor text = tokens(2500 + 13 * static_cast<int64_t>(seed)), question = tokens(40), more = tokens(45);
    const auto a = near.new_reader_state(batch_), b = far.new_reader_state(batch_);
    for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 1300}, {1300, text.size(1)}}) {  // pages of two sizes
      near.read(*a, text.narrow(1, begin, end - begin));
      far.read(*b, text.narrow(1, begin, end - begin));
    }
    EXPECT_EQ(a->memory.host_bytes(), 0);
    EXPECT_GE(b->memory.host_bytes(), ChunkMemory::key_bytes_for(config_, batch_, b->memory.chunks(), 2, eight_bit_));
    EXPECT_GT(b->memory.pages(), 1);
    const std::vector<at::Tensor> want = logits(near, *a, question, more);
    expect_equal(logits(far, *b, question, more), want, "read into host memory");
    const auto c = a->fork();
    c->memory = a->memory.with_keys_on_host();
    expect_equal(logits(near, *c, question, more), want, "moved to host memory");
    // Copies, and edits that are taken back.
    const ChunkEncoding ours = a->memory.copy(3, 90), theirs = b->memory.copy(3, 90);
    EXPECT_TRUE(at::equal(ours.k, theirs.k) && at::equal(ours.v, theirs.v) && at::equal(ours.landmarks, theirs.landmarks));
    const at::Tensor other = tokens(text.size(1)).cpu();
    const TokenFetch fetch = [&](int64_t row, int64_t begin, std::span<int32_t> out) {
      for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<int32_t>(other[row][begin + static_cast<int64_t>(i)].item<int64_t>());
    };
    const auto replaced = far.rewrite(*b, 500, 530, fetch);
    EXPECT_FALSE(at::equal(b->memory.copy(3, 90).k, theirs.k));
    far.restore(*b, replaced);
    EXPECT_TRUE(at::equal(b->memory.copy(3, 90).k, theirs.k));
    expect_equal(logits(far, *b, question, more), want, "restored");
  }
}

TEST_F(CudaTiers, AMemoryFileGivesTheSameLogitsOnEveryTier) {
  make(4);
  const Reader near = reader(KeysOn::kDevice);
  const TempFolder folder(quick_disk());
  const MemoryMaker maker{"0000000000000000", config_, "0000000000000000", "none", config_.vocab, at::kBFloat16};
  TextMemory text;
  text.tokens = TokenPages(2);
  text.documents = {{"a", 0}};
  const at::Tensor ids = tokens(2500), question = tokens(40), more = tokens(20);
  std::vector<int32_t> numbers(2500);
  for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<int32_t>(ids[0][static_cast<int64_t>(i)].item<int64_t>());
  text.tokens.append(numbers);
  text.state = near.new_reader_state(1);
  near.read(*text.state, ids);
  save_memory(folder / "a.memory", maker, text);
  const MemoryFile file = MemoryFile::open(folder / "a.memory", false);
  const at::Device device(at::kCUDA, 0);
  const TextMemory plain = file.load(*file.root().memory, true, device);
  const std::vector<at::Tensor> want = logits(near, *plain.state, question, more);
  const TextMemory host = file.load(*file.root().memory, true, device, KeysOn::kHost);
  EXPECT_GT(host.state->memory.host_bytes(), 0);
  expect_equal(logits(near, *host.state, question, more), want, "pinned");
  // The same with 8-bit rows, which are made when the file is opened.
  for (const EightBit kept : {EightBit{true, false}, EightBit{false, true}, EightBit{true, true}}) {
    const TextMemory rounded = file.load(*file.root().memory, true, device, KeysOn::kDevice, kept),
                     far = file.load(*file.root().memory, true, device, KeysOn::kHost, kept);
    EXPECT_LT(rounded.state->memory.bytes(), plain.state->memory.bytes());
    EXPECT_EQ(far.state->memory.host_bytes(), ChunkMemory::key_bytes_for(config_, 1, far.state->memory.chunks(), 2, kept));
    expect_equal(logits(near, *far.state, question, more), logits(near, *rounded.state, question, more), "8-bit, pinned");
  }
  try {
    const TextMemory mapped = file.load(*file.root().memory, true, device, KeysOn::kMapped);
    EXPECT_GT(mapped.state->memory.host_bytes(), 0);
    expect_equal(logits(near, *mapped.state, question, more), want, "mapped");
  } catch (const ResourceError& error) {
    EXPECT_NE(std::string(error.what()).find("--memory-on host"), std::string::npos);
    GTEST_SKIP() << "this machine registers no mapped files: " << error.what();
  }
}

}  // namespace
}  // namespace cairn
