// Forward in chunk order. A task is a block of tokens of one sequence and group: its pairs are sorted by chunk, each chunk is packed once
// and meets all its tokens, outputs are added up in a buffer of the task. Chunks come in ascending order whatever the blocks and threads,
// so the sum of every token is the same bit for bit.
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "cairn/ops/hsa/cpu.h"
#include "cairn/ops/hsa/cpu_common.h"

namespace cairn {

namespace hsa_cpu {

Operands::Operands(const at::Tensor& q_in, const at::Tensor& k_in, const at::Tensor& v_in, const at::Tensor& index_in,
                   const at::Tensor& weight_in, int64_t chunk)
    : z(hsa_shape(q_in, k_in, v_in, index_in, weight_in, chunk)),
      bf16(q_in.scalar_type() == at::kBFloat16),
      scale(static_cast<float>(1.0 / std::sqrt(static_cast<double>(z.width)))),
      keys(k_in.size(1)),
      q_hold(q_in.contiguous()),
      k_hold(k_in.contiguous()),
      v_hold(v_in.contiguous()),
      index_hold(index_in.contiguous()),
      weight_hold(weight_in.to(at::kFloat).contiguous()) {
  CAIRN_CHECK(q_in.is_cpu() && (bf16 || q_in.scalar_type() == at::kFloat));
  q = static_cast<const char*>(q_hold.const_data_ptr());
  k = static_cast<const char*>(k_hold.const_data_ptr());
  v = static_cast<const char*>(v_hold.const_data_ptr());
  index = index_hold.const_data_ptr<int64_t>();
  weight = weight_hold.const_data_ptr<float>();
}

namespace {

struct ForwardTask {
  const Operands& x;
  const Kernel& kernel;
  const int64_t Sp, Dp, R, block, tokens_a_tile;
  const bool off_by_one;
  char* o;
  float* lse;  // or null
  Buffer kt, rows, v, q, out, scratch, w, row_lse;
  std::vector<float*> out_rows;
  std::vector<Pair> pairs;

  ForwardTask(const Operands& x_, const Kernel& kernel_, int64_t block_, bool off, char* o_, float* lse_)
      : x(x_),
        kernel(kernel_),
        Sp(round_up(x.z.chunk, kernel.lanes)),
        Dp(round_up(x.z.width, kernel.lanes)),
        R(x.group_heads()),
        block(block_),
        tokens_a_tile(tile_tokens(R)),
        off_by_one(off),
        o(o_),
        lse(lse_),
        kt(x.z.width * Sp),
        rows(x.z.chunk * Dp),
        v(x.z.chunk * Dp),
        q(tokens_a_tile * R * Dp),
        out(block * R * Dp),
        scratch(tokens_a_tile * R * (Sp + Dp)),
        w(tokens_a_tile * R),
        row_lse(tokens_a_tile * R),
        out_rows(static_cast<size_t>(tokens_a_tile * R)) {}

  void run(int64_t b, int64_t g, int64_t first, int64_t count) {
    pairs.clear();
    for (int64_t t = first; t < first + count; ++t) {
      for (int64_t n = 0; n < x.z.slots; ++n) {
        const int64_t i = x.chunk_of(b * x.z.rows + t, g, n);
        if (i >= 0) pairs.push_back({i, b * x.z.rows + t, static_cast<int32_t>(n), static_cast<int32_t>(g)});
      }
    }
    std::stable_sort(pairs.begin(), pairs.end(), [](const Pair& a, const Pair& c) { return a.chunk < c.chunk; });
    std::fill_n(out.get(), count * R * Dp, 0.0f);
    for (size_t begin = 0; begin < pairs.size();) {
      size_t end = begin;
      while (end < pairs.size() && pairs[end].chunk == pairs[begin].chunk) ++end;
      visit(b, g, first, begin, end);
      begin = end;
    }
    const int64_t D = x.z.width;
    for (int64_t t = 0; t < count; ++t) {
      char* to = o + x.q_row(b * x.z.rows + first + t, g) * D * (x.bf16 ? 2 : 4);
      kernel.store_rows(to, D, x.bf16, out.get() + t * R * Dp, Dp, R, D);
    }
  }

  void visit(int64_t b, int64_t g, int64_t first, size_t begin, size_t end) {
    const int64_t S = x.z.chunk, D = x.z.width, G = x.z.groups;
    const int64_t key = x.k_row(b, pairs[begin].chunk, g);
    kernel.load_rows(rows.get(), Dp, x.at_row(x.k, key), G * D, S, D, x.bf16);
    kernel.transpose(kt.get(), Sp, rows.get(), Dp, S, D);
    kernel.load_rows(v.get(), Dp, x.at_row(x.v, key), G * D, S, D, x.bf16);
    for (size_t p = begin; p < end;) {
      int64_t taken = 0;
      const size_t tile = p;
      for (; p < end && taken < tokens_a_tile; ++p, ++taken) {
        const Pair& pair = pairs[p];
        kernel.load_rows(q.get() + taken * R * Dp, Dp, x.at_row(x.q, x.q_row(pair.token, g)), D, R, D, x.bf16);
        for (int64_t r = 0; r < R; ++r) {
          const int64_t local = pair.token - b * x.z.rows - first;
          w.get()[taken * R + r] = x.weight_of(pair.token, g, r, pair.slot);
          out_rows[taken * R + r] = out.get() + (local * R + r) * Dp;
        }
      }
      kernel.forward({taken * R, S, Sp, D, Dp, x.scale, off_by_one, q.get(), kt.get(), v.get(), w.get(), out_rows.data(),
                      lse != nullptr ? row_lse.get() : nullptr, scratch.get()});
      if (lse == nullptr) continue;
      for (int64_t i = 0; i < taken; ++i) {
        const Pair& pair = pairs[tile + i];
        for (int64_t r = 0; r < R; ++r) lse[x.q_row(pair.token, g) * x.z.slots + r * x.z.slots + pair.slot] = row_lse.get()[i * R + r];
      }
    }
  }
};

}  // namespace
}  // namespace hsa_cpu

HsaOutput hsa_cpu_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& index, const at::Tensor& weight,
                          int64_t chunk, bool off_by_one, bool want_lse) {
  using namespace hsa_cpu;
  const Operands x(q, k, v, index, weight, chunk);
  const Kernel& use = kernel();
  const int64_t B = x.z.batch, L = x.z.rows, G = x.z.groups, R = x.group_heads();
  HsaOutput out;
  out.o = at::empty(q.sizes(), x.q_hold.options());
  if (want_lse) out.lse = at::zeros({B, L, x.z.heads, x.z.slots}, x.q_hold.options().dtype(at::kFloat));
  if (B * L == 0) return out;

  // Blocks as long as their outputs stay in the second-level cache beside the packed chunk, shorter when there are too few for all threads.
  const int64_t workers = at::get_num_threads(), row_bytes = R * round_up(x.z.width, use.lanes) * 4;
  int64_t block = std::clamp<int64_t>((int64_t{256} << 10) / row_bytes, 1, 256);
  block = std::clamp<int64_t>(B * L * G / (2 * workers), 1, block);
  const int64_t blocks = (L + block - 1) / block;
  std::vector<std::unique_ptr<ForwardTask>> tasks(static_cast<size_t>(workers));
  share_out(B * blocks * G, workers, [&](int64_t task, int64_t worker) {
    auto& mine = tasks[static_cast<size_t>(worker)];
    if (!mine) {
      mine = std::make_unique<ForwardTask>(x, use, block, off_by_one, static_cast<char*>(out.o.mutable_data_ptr()),
                                           want_lse ? out.lse.mutable_data_ptr<float>() : nullptr);
    }
    const int64_t g = task % G, first = task / G % blocks * block, b = task / G / blocks;
    mine->run(b, g, first, std::min(block, L - first));
  });
  return out;
}

}  // namespace cairn
