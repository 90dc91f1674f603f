// Reads a text with a trained model, asks something about it, and prints the most likely tokens that follow.
//
//   ask MODEL_FOLDER TEXT QUESTION [TOKENS]        TEXT may be @FILE
//
// Reading runs the lower half of the network only and fills the memory of chunks; asking runs the whole network over the question, with
// every chunk of the text within reach (docs/algorithm.md, section 4).
#include <ATen/TensorOperators.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/empty.h>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "cairn/core/error.h"
#include "cairn/core/files.h"
#include "cairn/infer/reader.h"
#include "cairn/text/tokenizer.h"

namespace {

// Token ids of one text as the batch that the reader takes, int64 [1,n].
at::Tensor batch_of(const std::vector<int32_t>& ids) {
  at::Tensor tokens = at::empty({1, static_cast<int64_t>(ids.size())}, at::kLong);
  for (size_t i = 0; i < ids.size(); ++i) tokens.data_ptr<int64_t>()[i] = ids[i];
  return tokens;
}

void ask(const std::string& folder, std::string text, const std::string& question, int64_t count) {
  if (text.starts_with("@")) text = cairn::read_file(text.substr(1));

  const cairn::LoadedModel loaded = cairn::load_model(folder, at::kCPU);
  const auto tokenizer = cairn::load_tokenizer(loaded.tokenizer_file);
  const cairn::Reader reader(std::make_shared<cairn::Model>(loaded.config, loaded.parameters));

  const auto state = reader.new_reader_state(/*batch=*/1);
  const std::vector<int32_t> ids = tokenizer->encode(text);
  if (!ids.empty()) reader.read(*state, batch_of(ids));
  std::fprintf(stderr, "read %lld tokens: %lld chunks in the memory, %s\n", static_cast<long long>(state->position()),
               static_cast<long long>(state->memory.chunks()), cairn::format_bytes(static_cast<double>(state->bytes())).c_str());

  const std::vector<int32_t> prompt = tokenizer->encode(question);
  if (prompt.empty()) throw cairn::UserError("the question is empty");
  // The question first, then each answer token: advance() gives the logits [1,n,vocab] of what it is given, and the memory goes on.
  // (generate() of infer/decoder.h is this loop, for whole batches.)
  std::vector<int32_t> answer, next = prompt;
  while (static_cast<int64_t>(answer.size()) < count) {
    const at::Tensor logits = reader.advance(*state, batch_of(next));
    next = {static_cast<int32_t>(logits[0][-1].argmax().item<int64_t>())};
    answer.push_back(next[0]);
  }
  std::printf("%s\n", tokenizer->decode(answer).c_str());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "usage: ask MODEL_FOLDER TEXT|@FILE QUESTION [TOKENS]\n");
    return 2;
  }
  try {
    int64_t count = 16;
    if (argc > 4 && (!cairn::parse_length(argv[4], &count) || count < 1))
      throw cairn::UserError("TOKENS must be a number, 1 or more, not '{}'", argv[4]);
    ask(argv[1], argv[2], argv[3], count);
  } catch (const cairn::Error& error) {
    std::fprintf(stderr, "ask: %s\n", error.what());
    return error.exit_code();
  }
  return 0;
}
