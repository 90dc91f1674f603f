#include "cairn/model/parameters.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "cairn/core/error.h"
#include "cairn/core/random.h"
#include "cairn/core/safetensors.h"

namespace cairn {
namespace {

constexpr int64_t kAlignment = 64;  // numbers: every tensor starts on a cache line, in fp32 and bf16

// The initial spread of one tensor; outputs of attention and MLP are smaller, so that depth does not grow the residual stream (RECIPE
// "Init").
enum class Init { kOne, kZero, kNormal, kOutput };

Init init_of(const std::string& name) {
  if (name.ends_with("norm.weight")) return Init::kOne;
  if (name.ends_with(".bias") || name.ends_with("rank_decay")) return Init::kZero;
  if (name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight")) return Init::kOutput;
  return Init::kNormal;
}

Dtype to_dtype(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return Dtype::kF32;
    case at::kDouble:
      return Dtype::kF64;
    case at::kBFloat16:
      return Dtype::kBF16;
    default:
      CAIRN_CHECK(false, "weights are saved as fp32, fp64 or bf16");
      return Dtype::kF32;
  }
}

at::ScalarType to_scalar_type(Dtype dtype, const fs::path& file, const std::string& name) {
  switch (dtype) {
    case Dtype::kF32:
      return at::kFloat;
    case Dtype::kF64:
      return at::kDouble;
    case Dtype::kBF16:
      return at::kBFloat16;
    case Dtype::kF16:
      return at::kHalf;
    default:
      throw UserError("{}: tensor '{}' has type {}; weights must be F64, F32, F16 or BF16", file.string(), name, dtype_name(dtype));
  }
}

}  // namespace

std::vector<ParameterInfo> Parameters::layout(const ModelConfig& c) {
  std::vector<ParameterInfo> list;
  const int64_t d = c.d_model, width = c.heads * c.head_dim, kv_width = c.kv_heads * c.head_dim, hidden = c.mlp();
  const auto add = [&](const std::string& name, std::vector<int64_t> shape) { list.push_back({name, std::move(shape), 0, false}); };
  const auto mlp = [&](const std::string& p) {
    add(p + ".norm.weight", {d});
    add(p + ".gate_proj.weight", {hidden, d});
    add(p + ".up_proj.weight", {hidden, d});
    add(p + ".down_proj.weight", {d, hidden});
  };
  const auto attention = [&](const std::string& p, bool bias) {
    add(p + ".norm.weight", {d});
    add(p + ".q_norm.weight", {c.head_dim});
    add(p + ".k_norm.weight", {c.head_dim});
    for (const auto& [letter, rows] : {std::pair{"q", width}, std::pair{"k", kv_width}, std::pair{"v", kv_width}}) {
      add(p + "." + letter + "_proj.weight", {rows, d});
      if (bias) add(p + "." + letter + "_proj.bias", {rows});
    }
    add(p + ".o_proj.weight", {d, width});
  };
  add("embed.weight", {c.vocab, d});
  for (int64_t i = 0; i < c.lower_layers; ++i) {
    attention("lower." + std::to_string(i) + ".attention", false);
    mlp("lower." + std::to_string(i) + ".mlp");
  }
  if (c.pre_norm) add("chunk.pre_norm.weight", {d});
  if (c.landmark == "cls") add("chunk.cls", {d});
  for (int64_t i = 0; i < c.encoder_layers; ++i) {
    attention("chunk.encoder." + std::to_string(i) + ".attention", true);
    mlp("chunk.encoder." + std::to_string(i) + ".mlp");
  }
  add("chunk.norm.weight", {d});
  add("chunk.landmark_proj.weight", {c.retrieval_dim, d});
  if (c.landmark_norm) add("chunk.landmark_norm.weight", {c.retrieval_dim});
  add("chunk.k_proj.weight", {c.memory_kv_heads * c.head_dim, d});
  add("chunk.k_norm.weight", {c.head_dim});
  add("chunk.v_proj.weight", {c.memory_kv_heads * c.head_dim, d});
  const std::vector<UpperLayer> upper = c.upper_layers();
  for (size_t i = 0; i < upper.size(); ++i) {
    const std::string p = "upper." + std::to_string(i);
    if (upper[i].window) attention(p + ".attention", false);
    if (upper[i].mlp) mlp(p + ".mlp");
    if (!upper[i].memory) continue;
    add(p + ".norm.weight", {d});
    add(p + ".q_proj.weight", {c.memory_heads * c.head_dim, d});
    add(p + ".q_norm.weight", {c.head_dim});
    add(p + ".o_proj.weight", {d, c.memory_heads * c.head_dim});
    if (upper[i].retrieval) {
      add(p + ".retrieval_proj.weight", {c.retrieval_dim, d});
      if (c.landmark_norm) add(p + ".retrieval_norm.weight", {c.retrieval_dim});
    }
    if (c.rank_decay) add(p + ".rank_decay", {1});
  }
  add("norm.weight", {d});
  // Matrices first, so that weight decay is one slice of the flat buffer.
  int64_t offset = 0;
  for (bool matrices : {true, false}) {
    for (ParameterInfo& info : list) {
      info.decay = info.shape.size() == 2;
      if (info.decay != matrices) continue;
      info.offset = offset;
      int64_t numbers = 1;
      for (int64_t size : info.shape) numbers *= size;
      offset += (numbers + kAlignment - 1) / kAlignment * kAlignment;
    }
  }
  return list;
}

// Here, because the configuration itself knows no tensors: it is read (and fuzzed) without torch.
int64_t ModelConfig::parameter_count() const {
  int64_t count = 0;
  for (const ParameterInfo& info : Parameters::layout(*this)) {
    int64_t numbers = 1;
    for (int64_t size : info.shape) numbers *= size;
    count += numbers;
  }
  return count;
}

Parameters::Parameters(const ModelConfig& config, at::Device device, at::ScalarType dtype) : infos_(layout(config)) {
  int64_t total = 0;
  for (const ParameterInfo& info : infos_) {
    int64_t numbers = 1;
    for (int64_t size : info.shape) numbers *= size;
    const int64_t end = info.offset + (numbers + kAlignment - 1) / kAlignment * kAlignment;
    total = std::max(total, end);
    if (info.decay) decay_count_ = std::max(decay_count_, end);
  }
  flat_ = at::zeros({total}, at::TensorOptions().dtype(dtype).device(device));
  for (const ParameterInfo& info : infos_) {
    int64_t numbers = 1;
    for (int64_t size : info.shape) numbers *= size;
    by_name_[info.name] = flat_.narrow(0, info.offset, numbers).view(info.shape).detach();
  }
}

void Parameters::initialize(uint64_t seed) {
  int64_t layers = 0;
  for (const ParameterInfo& info : infos_) layers += info.name.ends_with("down_proj.weight") && !info.name.starts_with("chunk.");
  const double output = 0.02 / std::sqrt(2.0 * static_cast<double>(std::max<int64_t>(layers, 1)));
  const at::Tensor host = at::zeros({flat_.numel()}, at::kFloat);
  float* numbers = host.data_ptr<float>();
  for (const ParameterInfo& info : infos_) {
    const int64_t count = by_name_.at(info.name).numel();
    const Init init = init_of(info.name);
    // Keyed by the name's hash: a tensor's start does not depend on which other tensors the model has.
    Random random(stream_key({seed, hash_bytes(info.name)}));
    for (int64_t i = 0; i < count; ++i) {
      numbers[info.offset + i] = init == Init::kOne    ? 1.0F
                                 : init == Init::kZero ? 0.0F
                                                       : static_cast<float>(random.normal() * (init == Init::kOutput ? output : 0.02));
    }
  }
  flat_.copy_(host);
}

const at::Tensor& Parameters::operator[](const std::string& name) const {
  const auto found = by_name_.find(name);
  CAIRN_CHECK(found != by_name_.end(), "no parameter '{}'", name);
  return found->second;
}

void Parameters::enable_gradients() {
  flat_gradient_ = at::zeros_like(flat_);
  for (const ParameterInfo& info : infos_) {
    at::Tensor& leaf = by_name_.at(info.name);
    leaf.set_requires_grad(true);
    leaf.mutable_grad() = flat_gradient_.narrow(0, info.offset, leaf.numel()).view(info.shape);
  }
}

void Parameters::zero_gradients() { flat_gradient_.zero_(); }

void save_weights(const fs::path& file, const Parameters& parameters, at::ScalarType dtype,
                  const std::map<std::string, std::string>& metadata) {
  std::vector<at::Tensor> kept;
  std::vector<TensorToWrite> list;
  for (const ParameterInfo& info : parameters.infos()) {
    kept.push_back(parameters[info.name].detach().to(at::kCPU, dtype).contiguous());
    const at::Tensor& tensor = kept.back();
    list.push_back(
        {info.name, to_dtype(dtype), info.shape, {static_cast<const uint8_t*>(tensor.data_ptr()), static_cast<size_t>(tensor.nbytes())}});
  }
  write_safetensors(file, list, metadata);
}

void load_weights(const fs::path& file, Parameters& parameters) {
  const SafetensorsFile source(file);
  for (const auto& [name, info] : source.tensors()) {
    if (!parameters.contains(name)) throw UserError("{}: tensor '{}' does not belong to this configuration", file.string(), name);
  }
  const at::Tensor host = at::zeros({parameters.flat().numel()}, parameters.flat().scalar_type());
  for (const ParameterInfo& want : parameters.infos()) {
    if (!source.contains(want.name))
      throw UserError("{}: tensor '{}' is missing; the file is of another configuration", file.string(), want.name);
    const TensorInfo& info = source.info(want.name);
    if (info.shape != want.shape)
      throw UserError("{}: tensor '{}' has shape [{}], the configuration needs [{}]", file.string(), want.name, fmt::join(info.shape, ","),
                      fmt::join(want.shape, ","));
    const at::Tensor raw = at::empty(info.shape, to_scalar_type(info.dtype, file, want.name));
    const std::span<const uint8_t> data = source.data(want.name);
    std::memcpy(raw.data_ptr(), data.data(), data.size());
    host.narrow(0, want.offset, raw.numel()).view(want.shape).copy_(raw);
  }
  parameters.flat().copy_(host);
}

}  // namespace cairn
