// What the forward and the backward on a CPU share: plain pointers to the tensors, the inverted selection, work shared out to threads.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "cairn/core/error.h"
#include "cairn/ops/hsa/kernel.h"
#include "cairn/ops/hsa/shapes.h"

namespace cairn::hsa_cpu {

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// A row of fp32 numbers on a 64-byte boundary.
class Buffer {
 public:
  explicit Buffer(int64_t count)
      : data_(static_cast<float*>(std::aligned_alloc(64, static_cast<size_t>(round_up(std::max<int64_t>(count, 1) * 4, 64))))) {
    CAIRN_CHECK(data_ != nullptr, "{} numbers", count);
  }
  float* get() { return data_.get(); }

 private:
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  std::unique_ptr<float, Free> data_;
};

// The operands as rows of D numbers; q, k, v contiguous, weight and lse fp32 and contiguous, index contiguous.
struct Operands {
  HsaShape z;
  bool bf16 = false;
  float scale = 1;   // 1 / sqrt(D)
  int64_t keys = 0;  // M
  at::Tensor q_hold, k_hold, v_hold, index_hold, weight_hold;
  const char *q = nullptr, *k = nullptr, *v = nullptr;
  const int64_t* index = nullptr;
  const float* weight = nullptr;

  Operands(const at::Tensor& q_in, const at::Tensor& k_in, const at::Tensor& v_in, const at::Tensor& index_in, const at::Tensor& weight_in,
           int64_t chunk);

  int64_t group_heads() const { return z.heads / z.groups; }
  // First of the R query rows of token (b, t) and group g, in rows of D.
  int64_t q_row(int64_t token, int64_t g) const { return token * z.heads + g * group_heads(); }
  // First of the S key rows of (b, chunk i, group g); the next key is G rows further.
  int64_t k_row(int64_t b, int64_t i, int64_t g) const { return (b * keys + i * z.chunk) * z.groups + g; }
  const char* at_row(const char* base, int64_t row) const { return base + row * z.width * (bf16 ? 2 : 4); }
  // Chunk of slot n, group g of a token (b L + t).
  int64_t chunk_of(int64_t token, int64_t g, int64_t n) const {
    const int64_t i = index[(token * z.index_heads + (z.index_heads == 1 ? 0 : g)) * z.slots + n];
    CAIRN_CHECK(i >= -1 && i < z.chunks, "index {} with {} chunks", i, z.chunks);
    return i;
  }
  // Weight of query head r of group g.
  float weight_of(int64_t token, int64_t g, int64_t r, int64_t n) const {
    const int64_t h = z.weight_heads == 1 ? 0 : z.weight_heads == z.groups ? g : g * group_heads() + r;
    return weight[(token * z.weight_heads + h) * z.slots + n];
  }
};

// One (token, slot) that selected a chunk. Sorting by `chunk`, then token, then slot turns the selection around: tokens of each chunk.
struct Pair {
  int64_t chunk;  // any number that orders chunks
  int64_t token;  // b L + t
  int32_t slot;
  int32_t group;
};

// Runs fn(task, worker) for every task; workers take the next task when they are free. Which worker runs a task must not matter to its
// result.
template <typename Fn>
void share_out(int64_t tasks, int64_t workers, const Fn& fn) {
  std::atomic<int64_t> next{0};
  at::parallel_for(0, std::min(workers, tasks), 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker) {
      for (int64_t task = next++; task < tasks; task = next++) fn(task, worker);
    }
  });
}

// Tokens of R rows each that a tile takes: near 96 rows, where the register blocks of 6 rows come out even for R = 16.
inline int64_t tile_tokens(int64_t heads_of_group) { return std::max<int64_t>(1, 96 / heads_of_group); }

}  // namespace cairn::hsa_cpu
