#include "cairn/ops/hsa/shapes.h"

#include <ATen/ops/arange.h>

#include "cairn/core/error.h"
#include "cairn/ops/hsa/hsa.h"
#include "cairn/ops/require.h"

namespace cairn {

HsaShape hsa_shape(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& index, const at::Tensor& weight,
                   int64_t chunk) {
  constexpr const char* kOp = "hsa";
  require_dimensions(kOp, "q", q, 4, "[B,L,H,D]");
  require_dimensions(kOp, "k", k, 4, "[B,M,G,D]");
  require_dimensions(kOp, "v", v, 4, "[B,M,G,D]");
  require_dimensions(kOp, "index", index, 4, "[B,L,1 or G,N]");
  require_dimensions(kOp, "weight", weight, 4, "[B,L,1, G or H,N]");
  HsaShape z;
  z.batch = q.size(0), z.rows = q.size(1), z.heads = q.size(2), z.width = q.size(3);
  z.groups = k.size(2), z.chunk = chunk, z.slots = index.size(3), z.index_heads = index.size(2), z.weight_heads = weight.size(2);
  CAIRN_CHECK(chunk >= 1, "hsa: argument chunk is {}; expected the tokens of a chunk, at least 1", chunk);
  z.chunks = k.size(1) / chunk;
  CAIRN_CHECK(z.width >= 1 && z.heads >= 1, "hsa: argument q has shape {}; expected at least 1 head of width 1", shape_text(q.sizes()));
  CAIRN_CHECK(z.groups >= 1 && z.heads % z.groups == 0,
              "hsa: argument k has shape {}; expected [B,M,G,D] with G a divisor of the {} heads of q", shape_text(k.sizes()), z.heads);
  require_sizes(kOp, "k", k, {z.batch, k.size(1), z.groups, z.width}, "[B,M,G,D] with B and D of q");
  require_sizes(kOp, "v", v, k.sizes(), "the shape of k");
  CAIRN_CHECK(z.index_heads == 1 || z.index_heads == z.groups, "hsa: argument index has shape {}; expected 1 or {} in dimension 2",
              shape_text(index.sizes()), z.groups);
  require_sizes(kOp, "index", index, {z.batch, z.rows, z.index_heads, z.slots}, "[B,L,1 or G,N] with B and L of q");
  CAIRN_CHECK(z.weight_heads == 1 || z.weight_heads == z.groups || z.weight_heads == z.heads,
              "hsa: argument weight has shape {}; expected 1, {} or {} in dimension 2", shape_text(weight.sizes()), z.groups, z.heads);
  require_sizes(kOp, "weight", weight, {z.batch, z.rows, z.weight_heads, z.slots}, "[B,L,1, G or H,N] with B and L of q, N of index");
  const auto dtype = q.scalar_type();
  CAIRN_CHECK(dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kDouble,
              "hsa: argument q has dtype {}; expected Float, BFloat16 or Double", c10::toString(dtype));
  require_type(kOp, "k", k, dtype);
  require_type(kOp, "v", v, dtype);
  CAIRN_CHECK(weight.scalar_type() == dtype || weight.scalar_type() == at::kFloat,
              "hsa: argument weight has dtype {}; expected Float or {}", c10::toString(weight.scalar_type()), c10::toString(dtype));
  require_type(kOp, "index", index, at::kLong);
  require_device(kOp, "k", k, "q", q);
  require_device(kOp, "v", v, "q", q);
  require_device(kOp, "index", index, "q", q);
  require_device(kOp, "weight", weight, "q", q);
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
