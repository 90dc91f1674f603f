#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>

#include "cairn/core/error.h"
#include "cairn/ops/simd/isa.h"
#include "cairn/ops/window/kernels.h"
#include "cairn/ops/window/private.h"

namespace cairn {
namespace {

constexpr int64_t kPackedNumbers =
    48 * 1024;  // keys of an item times D: its packed keys and values take 8 bytes of each and stay in the L2 cache
constexpr int64_t kMaxSpan = 1024;
constexpr int64_t kGrain = 1 << 18;  // multiply-adds a thread takes at least

struct FreeAligned {
  void operator()(float* p) const { std::free(p); }
};
using Scratch = std::unique_ptr<float, FreeAligned>;

Scratch make_scratch(int64_t numbers) {
  void* p = std::aligned_alloc(64, static_cast<size_t>((numbers * 4 + 63) / 64 * 64));
  if (p == nullptr) throw std::bad_alloc();
  return Scratch(static_cast<float*>(p));
}

// The tensors that the pointers of `args` live in.
struct Prepared {
  BandArgs args;
  at::Tensor q, k, v, grad, slopes;
  int64_t grain = 1;
};

HeadsView view_of(at::Tensor& kept, const at::Tensor& t) {
  kept = t.stride(3) == 1 || t.size(3) == 1 ? t : t.contiguous();
  return {kept.const_data_ptr(), kept.stride(0), kept.stride(1), kept.stride(2)};
}

Prepared prepare(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t window, const at::Tensor& slopes) {
  Prepared p;
  BandArgs& a = p.args;
  a.q = view_of(p.q, q);
  a.k = view_of(p.k, k);
  a.v = view_of(p.v, v);
  if (slopes.defined()) {
    CAIRN_CHECK(slopes.dim() == 1 && slopes.size(0) == q.size(2), "window_attention: {} slopes for {} heads", slopes.numel(), q.size(2));
    p.slopes = slopes.to(at::kFloat).contiguous();
    a.slopes = p.slopes.const_data_ptr<float>();
  }
  a.batch = q.size(0);
  a.queries = q.size(1);
  a.keys = k.size(1);
  a.heads = q.size(2);
  a.kv_heads = k.size(2);
  a.width = q.size(3);
  a.window = std::min(window, a.keys);
  a.bf16 = q.scalar_type() == at::kBFloat16;
  // Neighbouring spans pack window - 1 keys twice: a span is at least as long as the window.
  const int64_t span = std::max({std::min(kPackedNumbers / a.width - window, kMaxSpan), window, int64_t{64}});
  a.span = window == 0 ? a.queries : std::min(span, a.queries);
  a.spans = a.span == 0 ? 0 : (a.queries + a.span - 1) / a.span;
  for (int64_t s = 0; s < a.spans; ++s) a.part_keys = std::max(a.part_keys, a.end_key(s) - a.first_key(s));
  const int64_t seen = window == 0 ? a.keys : a.window;
  p.grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, a.span * (a.heads / a.kv_heads) * seen * a.width));
  return p;
}

template <typename Body>
void for_items(const Prepared& p, bool backward, const Body& body) {
  const int64_t numbers = band_kernels().scratch(p.args, backward);
  at::parallel_for(0, p.args.items(), p.grain, [&](int64_t begin, int64_t end) {
    const Scratch scratch = make_scratch(numbers);
    for (int64_t i = begin; i < end; ++i) body(i, scratch.get());
  });
}

// The items' shares [items, part_keys, D] added up in the order of the spans -> [B,M,Hkv,D] in `like`'s dtype.
at::Tensor add_parts(const BandArgs& a, const at::Tensor& parts, const at::Tensor& like) {
  at::Tensor out = at::zeros(like.sizes(), like.options().dtype(at::kFloat));
  float* const to = out.mutable_data_ptr<float>();
  const float* const from = parts.const_data_ptr<float>();
  const int64_t history = a.keys - a.queries;
  at::parallel_for(0, a.batch * a.keys, std::max<int64_t>(1, 32768 / (a.kv_heads * a.width)), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / a.keys, key = i % a.keys;
      const int64_t first =
          a.window == 0 || key < history ? 0 : (key - history) / a.span;  // the first span that reaches as far as this key
      for (int64_t s = first; s < a.spans && a.first_key(s) <= key; ++s) {
        if (key >= a.end_key(s)) continue;
        for (int64_t g = 0; g < a.kv_heads; ++g) {
          const float* x = from + (((b * a.kv_heads + g) * a.spans + s) * a.part_keys + key - a.first_key(s)) * a.width;
          float* y = to + (i * a.kv_heads + g) * a.width;
          for (int64_t d = 0; d < a.width; ++d) y[d] += x[d];
        }
      }
    }
  });
  return out.to(like.scalar_type());
}

}  // namespace

const BandKernels& band_kernels() {
  switch (cpu_isa()) {
    case Isa::kAvx512:
      return band_kernels_avx512;
    case Isa::kAvx2:
      return band_kernels_avx2;
    default:
      return band_kernels_generic;
  }
}

at::Tensor band_forward_cpu(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t window, const at::Tensor& slopes) {
  at::Tensor o = at::empty(q.sizes(), q.options());
  if (o.numel() == 0) return o;
  Prepared p = prepare(q, k, v, window, slopes);
  p.args.o = o.mutable_data_ptr();
  const BandKernels& kernels = band_kernels();
  for_items(p, false, [&](int64_t item, float* scratch) { kernels.forward(p.args, item, scratch); });
  return o;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> band_backward_cpu(const at::Tensor& grad, const at::Tensor& q, const at::Tensor& k,
                                                                 const at::Tensor& v, int64_t window, const at::Tensor& slopes) {
  at::Tensor dq = at::empty(q.sizes(), q.options());
  if (dq.numel() == 0) return {dq, at::zeros(k.sizes(), k.options()), at::zeros(v.sizes(), v.options())};
  Prepared p = prepare(q, k, v, window, slopes);
  p.args.grad = view_of(p.grad, grad);
  p.args.dq = dq.mutable_data_ptr();
  const auto fp32 = q.options().dtype(at::kFloat);
  at::Tensor dk = at::empty({p.args.items(), p.args.part_keys, p.args.width}, fp32), dv = at::empty_like(dk);
  p.args.dk_part = dk.mutable_data_ptr<float>();
  p.args.dv_part = dv.mutable_data_ptr<float>();
  const BandKernels& kernels = band_kernels();
  for_items(p, true, [&](int64_t item, float* scratch) { kernels.backward(p.args, item, scratch); });
  return {dq, add_parts(p.args, dk, k), add_parts(p.args, dv, v)};
}

}  // namespace cairn
