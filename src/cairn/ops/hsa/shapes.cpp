#include "cairn/ops/hsa/shapes.h"

#include <ATen/ops/arange.h>

#include "cairn/core/error.h"
#include "cairn/ops/hsa/hsa.h"

namespace cairn {

HsaShape hsa_shape(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& index, const at::Tensor& weight,
                   int64_t chunk) {
  CAIRN_CHECK(q.dim() == 4 && k.dim() == 4 && v.dim() == 4 && index.dim() == 4 && weight.dim() == 4,
              "q {}, k {}, v {}, index {}, weight {} dimensions", q.dim(), k.dim(), v.dim(), index.dim(), weight.dim());
  HsaShape z;
  z.batch = q.size(0), z.rows = q.size(1), z.heads = q.size(2), z.width = q.size(3);
  z.groups = k.size(2), z.chunk = chunk, z.slots = index.size(3), z.index_heads = index.size(2), z.weight_heads = weight.size(2);
  CAIRN_CHECK(chunk >= 1, "chunk {}", chunk);
  z.chunks = k.size(1) / chunk;
  CAIRN_CHECK(z.width >= 1 && z.groups >= 1 && z.heads >= 1 && z.heads % z.groups == 0, "H {} G {} D {}", z.heads, z.groups, z.width);
  CAIRN_CHECK(k.size(0) == z.batch && k.size(3) == z.width && k.sizes() == v.sizes(), "k [{},{},{},{}] for q [{},{},{},{}]", k.size(0),
              k.size(1), k.size(2), k.size(3), z.batch, z.rows, z.heads, z.width);
  CAIRN_CHECK(index.size(0) == z.batch && index.size(1) == z.rows && (z.index_heads == 1 || z.index_heads == z.groups),
              "index [{},{},{},{}]", index.size(0), index.size(1), index.size(2), index.size(3));
  CAIRN_CHECK(weight.size(0) == z.batch && weight.size(1) == z.rows && weight.size(3) == z.slots, "weight [{},{},{},{}] for N {}",
              weight.size(0), weight.size(1), weight.size(2), weight.size(3), z.slots);
  CAIRN_CHECK(z.weight_heads == 1 || z.weight_heads == z.groups || z.weight_heads == z.heads, "weight has {} heads; H {} G {}",
              z.weight_heads, z.heads, z.groups);
  const auto dtype = q.scalar_type();
  CAIRN_CHECK(dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kDouble, "dtype {}", c10::toString(dtype));
  CAIRN_CHECK(k.scalar_type() == dtype && v.scalar_type() == dtype, "q {}, k {}, v {}", c10::toString(dtype),
              c10::toString(k.scalar_type()), c10::toString(v.scalar_type()));
  CAIRN_CHECK(weight.scalar_type() == dtype || weight.scalar_type() == at::kFloat, "weight {}", c10::toString(weight.scalar_type()));
  CAIRN_CHECK(index.scalar_type() == at::kLong, "index {}", c10::toString(index.scalar_type()));
  CAIRN_CHECK(k.device() == q.device() && v.device() == q.device() && index.device() == q.device() && weight.device() == q.device());
  return z;
}

void check_index(const at::Tensor& index, int64_t chunks) {
  CAIRN_CHECK(index.dim() == 4 && index.scalar_type() == at::kLong, "index has {} dimensions", index.dim());
  if (index.numel() == 0) return;
  const int64_t low = index.min().item<int64_t>(), high = index.max().item<int64_t>();
  if (low < -1) throw UserError("hsa: argument index holds {}; allowed are chunk numbers from 0 and -1 for an unused slot", low);
  if (high >= chunks) throw UserError("hsa: argument index holds chunk {}, but there are {} chunks (0 to {})", high, chunks, chunks - 1);
  const int64_t n = index.size(3);
  if (n < 2) return;
  const at::Tensor sorted = std::get<0>(index.sort(-1));
  const at::Tensor next = sorted.narrow(-1, 1, n - 1);
  const at::Tensor twice = next.eq(sorted.narrow(-1, 0, n - 1)).logical_and(next.ge(0));
  if (!twice.any().item<bool>()) return;
  const at::Tensor where = twice.nonzero()[0];
  const int64_t b = where[0].item<int64_t>(), t = where[1].item<int64_t>(), g = where[2].item<int64_t>(), slot = where[3].item<int64_t>();
  throw UserError("hsa: argument index names chunk {} twice in row [b {}, t {}, group {}]; list every selected chunk once",
                  sorted[b][t][g][slot].item<int64_t>(), b, t, g);
}

}  // namespace cairn
