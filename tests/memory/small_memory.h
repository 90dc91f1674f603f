// A small model's memory and random chunks for it.
#pragma once

#include <ATen/ops/randn.h>

#include "cairn/memory/chunk_memory.h"

namespace cairn {

inline ModelConfig small_config() {
  ModelConfig config;
  config.chunk = 4;
  config.head_dim = 8;
  config.memory_heads = 4;
  config.memory_kv_heads = 2;
  config.retrieval_dim = 12;
  config.retrieval_heads = 2;
  return config;
}

inline ChunkEncoding random_chunks(const ModelConfig& c, int64_t batch, int64_t chunks, at::ScalarType dtype = at::kFloat) {
  const auto options = at::TensorOptions().dtype(dtype);
  return {at::randn({batch, chunks, c.retrieval_heads, c.retrieval_dim / c.retrieval_heads}, options),
          at::randn({batch, chunks * c.chunk, c.memory_kv_heads, c.head_dim}, options),
          at::randn({batch, chunks * c.chunk, c.memory_kv_heads, c.head_dim}, options)};
}

}  // namespace cairn
