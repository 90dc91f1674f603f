#include "ops/hsa_selection.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "cairn/core/error.h"
#include "cairn/core/files.h"
#include "cairn/core/random.h"
#include "cairn/core/safetensors.h"
#include "cairn/infer/reader.h"
#include "cairn/model/model.h"
#include "cairn/text/tokenizer.h"

namespace cairn {

at::Tensor past_chunks(int64_t L, int64_t N, int64_t S) {
  Random random(5, 1);
  const at::Tensor index = at::full({1, L, 1, N}, -1, at::kLong);
  int64_t* p = index.mutable_data_ptr<int64_t>();
  for (int64_t t = 0; t < L; ++t, p += N) {
    const std::vector<int64_t> picked = random.choose(t / S, std::min(N, t / S));
    std::copy(picked.begin(), picked.end(), p);
  }
  return index;
}

std::map<std::string, at::Tensor> selections_of_model(const std::string& folder, const std::string& text, int64_t tokens) {
  constexpr int64_t kPiece = 8192;
  const at::NoGradGuard no_grad;
  LoadedModel loaded = load_model(folder, at::kCUDA);
  if (loaded.config.retrieval_heads != 1) throw UserError("{}: {} retrieval heads; one is wanted", folder, loaded.config.retrieval_heads);
  const std::vector<int32_t> ids = load_tokenizer(loaded.tokenizer_file)->encode(read_file(text));
  if (std::ssize(ids) < tokens) throw UserError("{}: {} tokens; {} are wanted", text, ids.size(), tokens);
  ReaderOptions options;
  options.compute = at::kBFloat16;
  const Reader reader(std::make_shared<Model>(loaded.config, loaded.parameters), options);
  const at::Tensor all =
      at::tensor(at::ArrayRef<int32_t>(ids.data(), static_cast<size_t>(tokens)), at::kInt).to(at::kCUDA, at::kLong).view({1, tokens});
  const auto state = reader.new_state(1);
  Trace trace;
  for (int64_t t = 0; t < tokens; t += kPiece) {
    Trace more;
    reader.advance_last(*state, all.narrow(1, t, std::min(kPiece, tokens - t)), 1, &more);
    append_trace(std::move(more), &trace);
  }
  std::map<std::string, at::Tensor> selections;
  for (size_t i = 0; i < trace.retrievals.size(); ++i) {
    selections["index_" + std::to_string(i)] = trace.retrievals[i].selection.index.to(at::kCPU, at::kLong).contiguous();
  }
  return selections;
}

void write_selections(const std::string& path, const std::map<std::string, at::Tensor>& selections) {
  std::vector<at::Tensor> hold;
  std::vector<TensorToWrite> tensors;
  for (const auto& [name, index] : selections) {
    const at::Tensor& x = hold.emplace_back(index.to(at::kInt).contiguous());
    tensors.push_back({name, Dtype::kI32, {x.size(1), x.size(3)}, {static_cast<const uint8_t*>(x.const_data_ptr()), x.nbytes()}});
  }
  write_safetensors(path, tensors, {});
}

std::map<std::string, at::Tensor> read_selections(const std::string& path) {
  const SafetensorsFile file(path);
  std::map<std::string, at::Tensor> selections;
  for (const auto& [name, info] : file.tensors()) {
    if (info.dtype != Dtype::kI32 || info.shape.size() != 2) throw UserError("{}: tensor {} is not int32 [tokens, slots]", path, name);
    const at::Tensor index = at::empty({1, info.shape[0], 1, info.shape[1]}, at::kInt);
    std::memcpy(index.mutable_data_ptr(), file.data(name).data(), file.data(name).size());
    selections[name] = index.to(at::kLong);
  }
  return selections;
}

}  // namespace cairn
