// The model's configuration: every switch of docs/algorithm.md section 1. Declared once; TOML, JSON and `config show` come from declare().
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cairn/core/options.h"

namespace cairn {

// One entry of `upper`. Text form: "window", or "memory" with suffixes: "+window" (own window attention in front), "-mlp" (no MLP),
// "-retrieval" (uses the latest retrieval above it). Example: "memory+window", "memory-mlp-retrieval".
struct UpperLayer {
  bool memory = false;
  bool window = false;  // of a memory layer: own window attention; a window layer has it always
  bool mlp = true;
  bool retrieval = true;                             // of a memory layer
  static UpperLayer parse(const std::string& text);  // UserError with the valid forms
};

struct ModelConfig {
  int64_t vocab = 4096;
  int64_t d_model = 512;
  int64_t heads = 8, kv_heads = 8, head_dim = 64;  // window and encoder layers; head_dim D also of the memory attention
  int64_t mlp_width = 0;                           // 0: floor(8 d / 3 / 64) * 64
  int64_t window = 129;                            // W, the token itself included
  int64_t lower_layers = 4;
  int64_t chunk = 64;  // S
  int64_t encoder_layers = 1;
  std::string landmark = "cls";  // cls | mean
  bool pre_norm = false;
  int64_t memory_heads = 16, memory_kv_heads = 1;    // H, G
  int64_t retrieval_dim = 512, retrieval_heads = 1;  // r, Q
  bool landmark_norm = true;
  std::vector<std::string> upper = {"memory", "window", "memory", "window"};
  int64_t top_k = 8;                // N
  std::string weights = "softmax";  // softmax | stick_breaking
  bool off_by_one = false, rank_decay = false, exclude_window = false;
  std::string retrieval_stride = "token";  // token | chunk
  std::string positions = "rope";          // rope | alibi | none
  double rope_theta = 1e4;
  double alpha = 0, beta = 0;  // share of exact mass in the chunk weights; share of the memory output in the residual stream

  void declare(OptionTable& table, const std::string& section = "model");
  void validate() const;  // UserError: what does not fit together
  int64_t mlp() const;    // effective MLP width
  std::vector<UpperLayer> upper_layers() const;
  int64_t upper_windows() const;                                       // n_up: window attentions in the upper half
  int64_t lower_reach() const { return lower_layers * (window - 1); }  // R_low, tokens
  int64_t upper_reach() const;                                         // tokens before a row that its logits depend on above the midpoint
  int64_t parameter_count() const;
  std::string to_json() const;  // the `config.json` of a checkpoint
  static ModelConfig from_json(std::string_view text, const std::string& source_name);
};

}  // namespace cairn
