// A model and run small enough for tests: word pairs, some ten thousand numbers.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <string>

#include "cairn/train/config.h"

namespace cairn::testing {

inline TrainConfig tiny_config() {
  TrainConfig c;
  c.model.vocab = 192;
  c.model.d_model = 32;
  c.model.heads = c.model.kv_heads = 2;
  c.model.head_dim = 16;
  c.model.mlp_width = 64;
  c.model.window = 8;
  c.model.lower_layers = 1;
  c.model.chunk = 8;
  c.model.encoder_layers = 1;
  c.model.memory_heads = 2;
  c.model.memory_kv_heads = 1;
  c.model.retrieval_dim = 32;
  c.model.upper = {"memory", "window"};
  c.model.top_k = 4;
  c.data.tokenizer = "word_pairs";
  c.tasks.mix = {"word_pairs:1"};
  c.train.tokens = 24 * 512;  // 24 steps
  c.train.batch_tokens = 512;
  c.train.phases = {"64:4:0.5", "128:4:1"};
  c.train.beta_ramp = {0.25, 0.75};
  c.train.route_weight = 0.3;
  c.train.lr = 3e-3;
  c.train.warmup_steps = 4;
  c.train.log_every = 2;
  c.train.validate_every = 0;
  c.train.save_every = 0;
  c.train.data_threads = 1;
  return c;
}

// A folder that is removed at the end of the test.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "cairn_train_XXXXXX").string();
    path_ = mkdtemp(name.data());
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace cairn::testing
