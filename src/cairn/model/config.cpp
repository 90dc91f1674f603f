#include "cairn/model/config.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "cairn/core/error.h"

namespace cairn {

UpperLayer UpperLayer::parse(const std::string& text) {
  const auto refuse = [&]() -> UserError {
    return UserError(
        "model.upper: '{}' is not a layer; use \"window\", or \"memory\" with any of \"+window\", \"-mlp\", \"-retrieval\" after it", text);
  };
  UpperLayer layer;
  if (text == "window") {
    layer.retrieval = false;
    layer.window = true;
    return layer;
  }
  std::string_view rest = text;
  if (!rest.starts_with("memory")) throw refuse();
  rest.remove_prefix(6);
  layer.memory = true;
  while (!rest.empty()) {
    if (rest.starts_with("+window") && !layer.window) {
      layer.window = true;
      rest.remove_prefix(7);
    } else if (rest.starts_with("-mlp") && layer.mlp) {
      layer.mlp = false;
      rest.remove_prefix(4);
    } else if (rest.starts_with("-retrieval") && layer.retrieval) {
      layer.retrieval = false;
      rest.remove_prefix(10);
    } else {
      throw refuse();
    }
  }
  return layer;
}

void ModelConfig::declare(OptionTable& table, const std::string& section) {
  const auto name = [&](const char* key) { return section.empty() ? std::string(key) : section + "." + key; };
  constexpr double kMany = 1 << 20;
  table.add(name("vocab"), &vocab, "number of token ids; 0 takes the tokenizer's", 0, 1 << 28);
  table.add(name("d_model"), &d_model, "width of the residual stream", 1, kMany);
  table.add(name("heads"), &heads, "query heads of the window and encoder layers", 1, 4096);
  table.add(name("kv_heads"), &kv_heads, "key/value heads of the window and encoder layers", 1, 4096);
  table.add(name("head_dim"), &head_dim, "width of a head, window and memory attention", 1, 1024);
  table.add(name("mlp_width"), &mlp_width, "SwiGLU width; 0: floor(8 d_model / 3 / 64) * 64", 0, kMany);
  table.add(name("window"), &window, "tokens that window attention sees, itself included", 1, kMany);
  table.add(name("lower_layers"), &lower_layers, "window layers below the midpoint", 0, 1024);
  table.add(name("chunk"), &chunk, "tokens a chunk", 1, kMany);
  table.add(name("encoder_layers"), &encoder_layers, "bidirectional layers of the chunk encoder; 0 needs landmark = \"mean\"", 0, 64);
  table.add(name("landmark"), &landmark, "what becomes the landmark: the output at the CLS vector or the mean over the chunk",
            {"cls", "mean"});
  table.add(name("pre_norm"), &pre_norm, "RMSNorm in front of the chunk encoder");
  table.add(name("memory_heads"), &memory_heads, "query heads of the memory attention", 1, 4096);
  table.add(name("memory_kv_heads"), &memory_kv_heads, "key/value heads of the memory", 1, 4096);
  table.add(name("retrieval_dim"), &retrieval_dim, "width of landmarks and retrieval queries, all retrieval heads together", 1, kMany);
  table.add(name("retrieval_heads"), &retrieval_heads, "retrieval heads: 1 or memory_kv_heads", 1, 4096);
  table.add(name("landmark_norm"), &landmark_norm,
            "RMSNorm with learned gain on landmarks and retrieval queries; without it training diverges");
  table.add(name("upper"), &upper, "layers above the midpoint: \"window\", or \"memory\" with \"+window\", \"-mlp\", \"-retrieval\"");
  table.add(name("top_k"), &top_k, "chunks that a token selects", 1, kMany);
  table.add(name("weights"), &weights, "how selected scores become chunk weights", {"softmax", "stick_breaking"});
  table.add(name("off_by_one"), &off_by_one, "add 1 to the denominator of each chunk's softmax");
  table.add(name("rank_decay"), &rank_decay, "learned scalar times rank (nearest first) added to selected scores");
  table.add(name("exclude_window"), &exclude_window, "only chunks that lie wholly outside the token's window are visible");
  table.add(name("retrieval_stride"), &retrieval_stride, "choose chunks per token, or per chunk by the last token of the chunk before",
            {"token", "chunk"});
  table.add(name("positions"), &positions, "positions of the window layers", {"rope", "alibi", "none"});
  table.add(name("rope_theta"), &rope_theta, "base of the rotary frequencies", 1, 1e12);
  table.add(name("alpha"), &alpha, "share of the exact attention mass in the chunk weights when the model is used", 0, 1);
  table.add(name("beta"), &beta, "share of the memory output that joins the residual stream when the model is used: 0 bypass, 1 standard",
            0, 1);
}

void ModelConfig::validate() const {
  if (vocab < 1) throw UserError("model.vocab is {}; it must be at least 1 (or 0 with a tokenizer that gives it)", vocab);
  if (heads % kv_heads != 0) throw UserError("model.heads ({}) must be a multiple of model.kv_heads ({})", heads, kv_heads);
  if (memory_heads % memory_kv_heads != 0)
    throw UserError("model.memory_heads ({}) must be a multiple of model.memory_kv_heads ({})", memory_heads, memory_kv_heads);
  if (retrieval_heads != 1 && retrieval_heads != memory_kv_heads)
    throw UserError("model.retrieval_heads ({}) must be 1 or equal model.memory_kv_heads ({})", retrieval_heads, memory_kv_heads);
  if (retrieval_dim % retrieval_heads != 0)
    throw UserError("model.retrieval_dim ({}) must be a multiple of model.retrieval_heads ({})", retrieval_dim, retrieval_heads);
  if (head_dim % 2 != 0) throw UserError("model.head_dim ({}) must be even: rotary positions turn pairs", head_dim);
  if (encoder_layers == 0 && landmark == "cls")
    throw UserError("model.landmark = \"cls\" needs model.encoder_layers >= 1; without an encoder use landmark = \"mean\"");
  if (alpha > 0 && (weights != "softmax" || off_by_one || rank_decay))
    throw UserError("alpha > 0 (exact-mass weights) goes with model.weights = \"softmax\", off_by_one = false, rank_decay = false");
  if (upper.empty()) throw UserError("model.upper is empty; give at least one layer, for example [\"memory\", \"window\"]");
  bool retrieval_above = false;
  for (const UpperLayer& layer : upper_layers()) {
    if (!layer.memory) continue;
    retrieval_above = retrieval_above || layer.retrieval;
    if (!retrieval_above) throw UserError("model.upper: the first memory layer must have a retrieval of its own (no \"-retrieval\")");
  }
}

int64_t ModelConfig::mlp() const { return mlp_width > 0 ? mlp_width : std::max<int64_t>(64, 8 * d_model / 3 / 64 * 64); }

std::vector<UpperLayer> ModelConfig::upper_layers() const {
  std::vector<UpperLayer> layers;
  for (const std::string& text : upper) layers.push_back(UpperLayer::parse(text));
  return layers;
}

int64_t ModelConfig::upper_windows() const {
  int64_t count = 0;
  for (const UpperLayer& layer : upper_layers()) count += layer.window;
  return count;
}

int64_t ModelConfig::upper_reach() const {
  int64_t reach = upper_windows() * (window - 1);
  if (retrieval_stride == "chunk") {  // a row uses the query of the last chunk's end, up to S tokens before it
    for (const UpperLayer& layer : upper_layers()) reach += layer.memory && layer.retrieval ? chunk : 0;
  }
  return reach;
}

std::string ModelConfig::to_json() const {
  OptionTable table;
  ModelConfig copy = *this;
  copy.declare(table, "");
  return table.to_json();
}

ModelConfig ModelConfig::from_json(std::string_view text, const std::string& source_name) {
  ModelConfig config;
  OptionTable table;
  config.declare(table, "");
  table.load_json_text(text, source_name);
  config.validate();
  return config;
}

}  // namespace cairn
