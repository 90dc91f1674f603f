// Backward in chunk order. Tokens go by in spans whose partial results fit the workspace; within a span every chunk is a task of its own
// that owns the chunk's dK and dV, and leaves dq and <g, o_k> of each pair in the workspace; then these are summed over the slots of each
// token. The spans depend on shapes only, so the result is the same bit for bit for any number of threads.
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "cairn/ops/hsa/cpu.h"
#include "cairn/ops/hsa/cpu_common.h"

namespace cairn {
namespace hsa_cpu {
namespace {

constexpr int64_t kWorkspaceBytes = int64_t{8} << 20;

struct Backward {
  const Operands& x;
  const Kernel& kernel;
  const bool off_by_one;
  const int64_t S, D, Sp, Dp, R, G, H, N, tile;
  at::Tensor g_hold, dlse_hold;
  const char* g = nullptr;
  const float* dlse = nullptr;
  int64_t span = 1;           // tokens
  Buffer dq_pairs, dw_pairs;  // [span,N,H,Dp], [span,N,H]
  at::Tensor dk, dv;          // fp32 [B,M,G,Dp]
  std::vector<Pair> pairs;
  std::vector<std::pair<size_t, size_t>> visits;  // ranges of `pairs` that share a chunk

  Backward(const Operands& x_, const Kernel& kernel_, bool off, const at::Tensor& grad_o, const at::Tensor& grad_lse, int64_t span_)
      : x(x_),
        kernel(kernel_),
        off_by_one(off),
        S(x.z.chunk),
        D(x.z.width),
        Sp(round_up(S, kernel.lanes)),
        Dp(round_up(D, kernel.lanes)),
        R(x.group_heads()),
        G(x.z.groups),
        H(x.z.heads),
        N(x.z.slots),
        tile(tile_tokens(R)),
        g_hold(grad_o.to(x.q_hold.scalar_type()).contiguous()),
        span(span_),
        dq_pairs(span * N * H * Dp),
        dw_pairs(span * N * H),
        dk(at::zeros({x.z.batch, x.keys, G, Dp}, x.q_hold.options().dtype(at::kFloat))),
        dv(at::zeros_like(dk)) {
    g = static_cast<const char*>(g_hold.const_data_ptr());
    if (grad_lse.defined()) {
      dlse_hold = grad_lse.to(at::kFloat).contiguous();
      dlse = dlse_hold.const_data_ptr<float>();
    }
  }

  // Buffers of one worker.
  struct Worker {
    Buffer kt, vt, k, v, q, g, dk, dv, dq, scratch, w, dlse, dw;
    explicit Worker(const Backward& y)
        : kt(y.D * y.Sp),
          vt(y.D * y.Sp),
          k(y.S * y.Dp),
          v(y.S * y.Dp),
          q(y.tile * y.R * y.Dp),
          g(y.tile * y.R * y.Dp),
          dk(y.S * y.Dp),
          dv(y.S * y.Dp),
          dq(y.tile * y.R * y.Dp),
          scratch(y.tile * y.R * 2 * y.Sp),
          w(y.tile * y.R),
          dlse(y.tile * y.R),
          dw(y.tile * y.R) {}
  };

  // The selection of tokens first .. first + count, turned around.
  void invert(int64_t first, int64_t count) {
    pairs.clear(), visits.clear();
    for (int64_t token = first; token < first + count; ++token) {
      const int64_t b = token / x.z.rows;
      for (int64_t group = 0; group < G; ++group) {
        for (int64_t n = 0; n < N; ++n) {
          const int64_t i = x.chunk_of(token, group, n);
          if (i >= 0) pairs.push_back({(b * x.z.chunks + i) * G + group, token, static_cast<int32_t>(n), static_cast<int32_t>(group)});
        }
      }
    }
    std::stable_sort(pairs.begin(), pairs.end(), [](const Pair& a, const Pair& c) { return a.chunk < c.chunk; });
    for (size_t begin = 0; begin < pairs.size();) {
      size_t end = begin;
      while (end < pairs.size() && pairs[end].chunk == pairs[begin].chunk) ++end;
      visits.emplace_back(begin, end);
      begin = end;
    }
    // Longest first, so that no thread starts a popular chunk when the others are done.
    std::stable_sort(visits.begin(), visits.end(), [](const auto& a, const auto& c) { return a.second - a.first > c.second - c.first; });
  }

  void visit(size_t begin, size_t end, int64_t first, Worker& m) {
    const int64_t group = pairs[begin].group, chunk = pairs[begin].chunk / G % x.z.chunks, b = pairs[begin].token / x.z.rows;
    const int64_t key = x.k_row(b, chunk, group);
    kernel.load_rows(m.k.get(), Dp, x.at_row(x.k, key), G * D, S, D, x.bf16);
    kernel.load_rows(m.v.get(), Dp, x.at_row(x.v, key), G * D, S, D, x.bf16);
    kernel.transpose(m.kt.get(), Sp, m.k.get(), Dp, S, D);
    kernel.transpose(m.vt.get(), Sp, m.v.get(), Dp, S, D);
    std::fill_n(m.dk.get(), S * Dp, 0.0f);
    std::fill_n(m.dv.get(), S * Dp, 0.0f);
    for (size_t p = begin; p < end; p += static_cast<size_t>(tile)) {
      const int64_t taken = std::min<int64_t>(tile, static_cast<int64_t>(end - p));
      for (int64_t i = 0; i < taken; ++i) {
        const Pair& pair = pairs[p + static_cast<size_t>(i)];
        const int64_t row = x.q_row(pair.token, group);
        kernel.load_rows(m.q.get() + i * R * Dp, Dp, x.at_row(x.q, row), D, R, D, x.bf16);
        kernel.load_rows(m.g.get() + i * R * Dp, Dp, x.at_row(g, row), D, R, D, x.bf16);
        for (int64_t r = 0; r < R; ++r) {
          m.w.get()[i * R + r] = x.weight_of(pair.token, group, r, pair.slot);
          if (dlse != nullptr) m.dlse.get()[i * R + r] = dlse[(row + r) * N + pair.slot];
        }
      }
      kernel.backward({taken * R, S, Sp, D, Dp, x.scale, off_by_one, m.q.get(), m.g.get(), m.kt.get(), m.vt.get(), m.k.get(), m.w.get(),
                       dlse != nullptr ? m.dlse.get() : nullptr, m.dq.get(), m.dw.get(), m.dk.get(), m.dv.get(), m.scratch.get()});
      for (int64_t i = 0; i < taken; ++i) {
        const Pair& pair = pairs[p + static_cast<size_t>(i)];
        const int64_t at = ((pair.token - first) * N + pair.slot) * H + group * R;
        std::copy_n(m.dq.get() + i * R * Dp, R * Dp, dq_pairs.get() + at * Dp);
        std::copy_n(m.dw.get() + i * R, R, dw_pairs.get() + at);
      }
    }
    float *dk_to = dk.mutable_data_ptr<float>() + key * Dp, *dv_to = dv.mutable_data_ptr<float>() + key * Dp;
    for (int64_t j = 0; j < S; ++j) {
      kernel.add(dk_to + j * G * Dp, m.dk.get() + j * Dp, Dp);
      kernel.add(dv_to + j * G * Dp, m.dv.get() + j * Dp, Dp);
    }
  }

  // Sums of one token over its slots, in order; sum [H,Dp] is a buffer.
  void reduce(int64_t token, int64_t first, float* sum, char* dq, float* dw) {
    std::fill_n(sum, H * Dp, 0.0f);
    for (int64_t group = 0; group < G; ++group) {
      for (int64_t n = 0; n < N; ++n) {
        if (x.chunk_of(token, group, n) < 0) continue;
        const int64_t at = ((token - first) * N + n) * H + group * R;
        kernel.add(sum + group * R * Dp, dq_pairs.get() + at * Dp, R * Dp);
        for (int64_t r = 0; r < R; ++r) {
          const int64_t h = x.z.weight_heads == 1 ? 0 : x.z.weight_heads == G ? group : group * R + r;
          dw[(token * x.z.weight_heads + h) * N + n] += dw_pairs.get()[at + r];
        }
      }
    }
    kernel.store_rows(dq + token * H * D * (x.bf16 ? 2 : 4), D, x.bf16, sum, Dp, H, D);
  }
};

}  // namespace
}  // namespace hsa_cpu

HsaGradients hsa_cpu_backward(const at::Tensor& grad_o, const at::Tensor& grad_lse, const at::Tensor& q, const at::Tensor& k,
                              const at::Tensor& v, const at::Tensor& index, const at::Tensor& weight, int64_t chunk, bool off_by_one) {
  using namespace hsa_cpu;
  const Operands x(q, k, v, index, weight, chunk);
  const Kernel& use = kernel();
  const int64_t tokens = x.z.batch * x.z.rows,
                pair_bytes = std::max<int64_t>(x.z.slots, 1) * x.z.heads * round_up(x.z.width, use.lanes) * 4;
  const int64_t span = std::clamp<int64_t>(kWorkspaceBytes / pair_bytes, 1, std::max<int64_t>(tokens, 1));
  HsaGradients out;
  out.q = at::empty_like(x.q_hold);
  at::Tensor dw = at::zeros(weight.sizes(), x.weight_hold.options());
  Backward y(x, use, off_by_one, grad_o, grad_lse, span);

  const int64_t workers = at::get_num_threads();
  std::vector<std::unique_ptr<Backward::Worker>> worker(static_cast<size_t>(workers));
  for (int64_t first = 0; first < tokens; first += span) {
    const int64_t count = std::min(span, tokens - first);
    y.invert(first, count);
    share_out(static_cast<int64_t>(y.visits.size()), workers, [&](int64_t task, int64_t w) {
      auto& mine = worker[static_cast<size_t>(w)];
      if (!mine) mine = std::make_unique<Backward::Worker>(y);
      const auto [begin, end] = y.visits[static_cast<size_t>(task)];
      y.visit(begin, end, first, *mine);
    });
    at::parallel_for(first, first + count, 8, [&](int64_t begin, int64_t end) {
      Buffer sum(y.H * y.Dp);
      for (int64_t token = begin; token < end; ++token) {
        y.reduce(token, first, sum.get(), static_cast<char*>(out.q.mutable_data_ptr()), dw.mutable_data_ptr<float>());
      }
    });
  }
  out.weight = dw.to(weight.scalar_type());
  out.k = y.dk.narrow(3, 0, x.z.width).to(k.scalar_type()).contiguous();
  out.v = y.dv.narrow(3, 0, x.z.width).to(v.scalar_type()).contiguous();
  return out;
}

}  // namespace cairn
