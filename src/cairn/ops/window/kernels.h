// CPU kernels of attention with a band of visible keys: windows with history, and whole rows. Inside ops/window only.
//
// The work is cut into items: one (sequence, key/value head, span of queries) each. An item packs the keys and values of its band once
// as fp32, then goes through tiles of a few rows (token, query head of the group): scores of the tile's own key range only, masked softmax,
// product with the values. Nothing of size [L, M] is ever held. All arithmetic is fp32.
#pragma once

#include <cstdint>

namespace cairn {

// [B,L,H,D] with the last stride 1; strides count numbers.
struct HeadsView {
  const void* data = nullptr;
  int64_t batch = 0, token = 0, head = 0;
};

struct BandArgs {
  HeadsView q, k, v, grad;   // grad: backward, of the output
  void* o = nullptr;         // forward: [B,L,H,D] contiguous
  void* dq = nullptr;        // backward: [B,L,H,D] contiguous
  float* dk_part = nullptr;  // backward: [items, part_keys, D]: each item's share of the gradients of its keys
  float* dv_part = nullptr;
  const float* slopes = nullptr;  // ALiBi, [H] or null
  int64_t batch = 0, queries = 0, keys = 0, heads = 0, kv_heads = 0, width = 0;
  int64_t window = 0;           // 0: every query sees every key
  int64_t span = 0, spans = 0;  // queries of an item; items a (sequence, head)
  int64_t part_keys = 0;        // keys of an item at most
  bool bf16 = false;

  int64_t items() const { return batch * kv_heads * spans; }
  // Keys of span s: first and one past the last.
  int64_t first_key(int64_t s) const {
    const int64_t first = s * span + keys - queries - window + 1;
    return window == 0 || first < 0 ? 0 : first;
  }
  int64_t end_key(int64_t s) const {
    const int64_t last = (s + 1) * span < queries ? (s + 1) * span : queries;
    return window == 0 ? keys : last + keys - queries;
  }
};

struct BandKernels {
  int64_t (*scratch)(const BandArgs& args, bool backward);  // floats that forward or backward needs as work space, 64-byte aligned
  void (*forward)(const BandArgs& args, int64_t item, float* scratch);
  void (*backward)(const BandArgs& args, int64_t item, float* scratch);
};

const BandKernels& band_kernels();

extern const BandKernels band_kernels_generic, band_kernels_avx2, band_kernels_avx512;

}  // namespace cairn
