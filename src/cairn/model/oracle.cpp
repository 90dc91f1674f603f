#include "cairn/model/oracle.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "cairn/core/error.h"
#include "cairn/core/safetensors.h"
#include "cairn/model/losses.h"
#include "cairn/model/model.h"
#include "cairn/ops/hsa/hsa.h"

namespace cairn {
namespace {

using nlohmann::json;

at::Tensor tensor_of(const SafetensorsFile& file, const std::string& name) {
  const TensorInfo& info = file.info(name);
  at::ScalarType type = at::kFloat;
  if (info.dtype == Dtype::kI64) {
    type = at::kLong;
  } else if (info.dtype != Dtype::kF32) {
    throw UserError("{}: tensor '{}' has type {}; a case holds F32 and I64", file.path().string(), name, dtype_name(info.dtype));
  }
  const at::Tensor tensor = at::empty(info.shape, type);
  const auto data = file.data(name);
  if (!data.empty()) std::memcpy(tensor.data_ptr(), data.data(), data.size());
  return tensor;
}

// Worst |a - b| / (absolute + relative |b|); infinite for wrong shapes and NaN.
double error_of(const at::Tensor& a, const at::Tensor& b, double absolute, double relative) {
  if (!a.defined() || a.sizes() != b.sizes()) return INFINITY;
  if (b.numel() == 0) return 0;
  const at::Tensor x = a.detach().to(at::kDouble), y = b.to(at::kDouble);
  const double worst = ((x - y).abs() / (y.abs() * relative + absolute)).max().item<double>();
  return std::isnan(worst) ? INFINITY : worst;
}

class Comparison {
 public:
  Comparison(const SafetensorsFile& file, OracleResult* result) : file_(file), result_(result) {}
  void output(const std::string& name, const at::Tensor& ours) {
    keep(error_of(ours, tensor_of(file_, "out." + name), 2e-5, 1e-4), name, &result_->output_error, &result_->worst_output);
  }
  void gradient(const std::string& name, const at::Tensor& ours) {
    keep(error_of(ours, tensor_of(file_, "grad." + name), 1e-4, 1e-3), name, &result_->gradient_error, &result_->worst_gradient);
  }

 private:
  static void keep(double error, const std::string& name, double* worst, std::string* worst_name) {
    if (worst_name->empty() || error > *worst) {
      *worst = error;
      *worst_name = name;
    }
  }
  const SafetensorsFile& file_;
  OracleResult* result_;
};

void run_attention_case(const SafetensorsFile& file, const json& config, OracleResult* result) {
  const auto leaf = [&](const char* name) { return tensor_of(file, std::string("in.") + name).set_requires_grad(true); };
  const at::Tensor q = leaf("q"), k = leaf("k"), v = leaf("v"), score = leaf("score"), index = tensor_of(file, "in.index");
  const at::Tensor used = index >= 0, s = score.gather(-1, index.clamp_min(0));
  at::Tensor weight = config.at("weights") == "softmax" ? softmax_weights(s, used) : stick_breaking_weights(s, used);
  weight.retain_grad();
  const HsaOutput out = hsa(q, k, v, index, weight, config.at("S").get<int64_t>(), config.at("off_by_one").get<bool>(), true);
  (out.o * tensor_of(file, "in.cotangent")).sum().backward();
  Comparison compare(file, result);
  compare.output("o", out.o);
  compare.output("lse", out.lse);
  compare.gradient("q", q.grad());
  compare.gradient("k", k.grad());
  compare.gradient("v", v.grad());
  compare.gradient("score", score.grad());
  compare.gradient("weight", weight.grad());
  // The selection itself: our choice among the same scores.
  Visibility visibility;
  visibility.chunk = config.at("S").get<int64_t>();
  const Selection ours = select_from_scores(score.detach(), config.at("N").get<int64_t>(), visibility);
  if (!ours.index.equal(index)) result->failure = "selects other chunks";
}

// The layer in this project's words: {"type": "memory", "window": true, "mlp": false, "retrieval": false} -> "memory+window-mlp-retrieval".
std::string upper_text(const json& layer) {
  if (layer.at("type") == "window") return "window";
  std::string text = "memory";
  if (layer.value("window", false)) text += "+window";
  if (!layer.value("mlp", true)) text += "-mlp";
  if (!layer.value("retrieval", true)) text += "-retrieval";
  return text;
}

void run_model_case(const SafetensorsFile& file, json settings, OracleResult* result) {
  json model = json::object();
  for (const auto& [key, value] : settings.items()) {
    if (key == "kind" || key == "L" || key == "B" || key == "route" || key == "distill") continue;
    model[key] = value;
  }
  json upper = json::array();
  for (const json& layer : settings.at("upper")) upper.push_back(upper_text(layer));
  model["upper"] = upper;
  const ModelConfig config = ModelConfig::from_json(model.dump(), file.path().string());
  auto parameters = std::make_shared<Parameters>(config, at::kCPU);
  parameters->enable_gradients();
  {
    const at::NoGradGuard no_gradient;
    for (const ParameterInfo& info : parameters->infos()) (*parameters)[info.name].copy_(tensor_of(file, "param." + info.name));
  }
  for (const auto& [name, info] : file.tensors()) {
    if (name.starts_with("param.") && !parameters->contains(name.substr(6)))
      throw UserError("the case has a parameter '{}' that we do not", name.substr(6));
  }
  const double route = settings.at("route").get<double>(), distill = settings.at("distill").get<double>();
  ForwardOptions options;
  options.alpha = config.alpha;
  options.beta = config.beta;
  options.top_k = config.top_k;
  options.want_mass = distill > 0;

  const at::Tensor tokens = tensor_of(file, "in.tokens");
  const int64_t B = tokens.size(0), L = tokens.size(1);
  const Model network(config, parameters);
  const ForwardResult forward = network.forward(tokens, options);
  const auto world = World::single();
  // Row L-1 predicts nothing here: weight 0.
  at::Tensor target = at::zeros_like(tokens);
  target.narrow(1, 0, L - 1).copy_(tokens.narrow(1, 1, L - 1));
  at::Tensor weight = at::zeros_like(tokens).to(at::kFloat);
  weight.narrow(1, 0, L - 1).fill_(1);
  const TokenLoss ce = token_loss(forward.hidden, (*parameters)["embed.weight"], target, weight, *world);
  at::Tensor loss = ce.loss;

  Comparison compare(file, result);
  compare.output("logits", network.logits(forward.hidden));
  compare.output("landmarks", forward.trace.landmarks.flatten(2));
  compare.output("cross_entropy", ce.loss);
  const at::Tensor x = network.lower(network.embed(tokens), 0, nullptr, at::kFloat);
  const ChunkEncoding encoding = network.encode_chunks(x.narrow(1, 0, L / config.chunk * config.chunk), at::kFloat);
  compare.output("keys", encoding.k);
  compare.output("values", encoding.v);
  if (distill > 0) {
    const at::Tensor d = distillation_loss(forward.trace, config.chunk, *world);
    compare.output("distillation", d);
    loss = loss + distill * options.alpha * d;
  }
  if (route > 0) {
    const at::Tensor r =
        route_loss(forward.trace, tensor_of(file, "in.source"), tensor_of(file, "in.weight"), at::Tensor(), config.chunk, world);
    compare.output("route", r);
    loss = loss + route * r;
  }
  compare.output("loss", loss);
  CAIRN_CHECK(B > 0, "empty batch");
  loss.backward();
  for (const ParameterInfo& info : parameters->infos()) {
    if (file.contains("grad." + info.name)) compare.gradient(info.name, (*parameters)[info.name].grad());
  }
}

}  // namespace

OracleResult run_oracle_case(const fs::path& path) {
  OracleResult result;
  result.name = path.stem().string();
  try {
    const SafetensorsFile file(path);
    const auto config = file.metadata().find("config");
    if (config == file.metadata().end()) throw UserError("no 'config' in the file's metadata");
    const json settings = json::parse(config->second);
    const std::string kind = settings.at("kind");
    if (kind == "hsa") {
      run_attention_case(file, settings, &result);
    } else if (kind == "model") {
      run_model_case(file, settings, &result);
    } else {
      throw UserError("unknown kind of case '{}'", kind);
    }
  } catch (const std::exception& error) {
    result.failure = error.what();
    result.failure = result.failure.substr(0, result.failure.find('\n'));
  }
  return result;
}

std::vector<OracleResult> run_oracle(const fs::path& folder) {
  if (!fs::is_directory(folder)) throw UserError("{}: no such folder of oracle cases", folder.string());
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() == ".safetensors") files.push_back(entry.path());
  }
  if (files.empty()) throw UserError("{}: holds no *.safetensors case", folder.string());
  std::sort(files.begin(), files.end());
  std::vector<OracleResult> results;
  for (const fs::path& file : files) results.push_back(run_oracle_case(file));
  return results;
}

}  // namespace cairn
