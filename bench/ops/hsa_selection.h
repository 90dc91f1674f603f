// Selections for the benchmarks of memory attention: random ones, those of a trained model, and files that hold them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>

namespace cairn {

// [1,L,1,N] int64 on the CPU: min(N, visible) distinct past chunks of S tokens for every token, then -1; the same numbers for the same
// sizes.
at::Tensor past_chunks(int64_t L, int64_t N, int64_t S);

// What each retrieval of the model in `folder` chooses on the first `tokens` tokens of a text file, by a GPU in bf16: "index_0", ...
// [1,L,1,N]. UserError for a broken folder, several retrieval heads, or a text that is too short.
std::map<std::string, at::Tensor> selections_of_model(const std::string& folder, const std::string& text, int64_t tokens);

// safetensors files of int32 [L,N]; hsa_triton.py reads them, too. UserError for files that are none.
void write_selections(const std::string& path, const std::map<std::string, at::Tensor>& selections);
std::map<std::string, at::Tensor> read_selections(const std::string& path);

}  // namespace cairn
