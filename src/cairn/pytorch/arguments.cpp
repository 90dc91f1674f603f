#include "cairn/pytorch/arguments.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/aminmax.h>
#include <c10/util/Exception.h>

#include <initializer_list>
#include <string>

#include "cairn/core/error.h"
#include "cairn/ops/hsa/hsa.h"

namespace cairn::pytorch {
namespace {

struct Named {
  const char* name;
  const at::Tensor& tensor;
};

void check_dimensions(const char* op, const Named& x, const char* shape) {
  TORCH_CHECK_VALUE(x.tensor.dim() == 4, op, ": argument ", x.name, " has shape ", x.tensor.sym_sizes(), "; expected 4 dimensions, ",
                    shape);
}

// size[dim] of x must be `want`, the size that `of` has.
void check_size(const char* op, const Named& x, int64_t dim, const c10::SymInt& want, const char* of, const char* shape) {
  TORCH_CHECK_VALUE(x.tensor.sym_size(dim) == want, op, ": argument ", x.name, " has shape ", x.tensor.sym_sizes(), "; expected ", shape,
                    " with size ", want, " in dimension ", dim, ", that of ", of);
}

void check_device(const char* op, const char* first, const at::Device& device, std::initializer_list<Named> rest) {
  for (const Named& x : rest) {
    TORCH_CHECK_VALUE(x.tensor.device() == device, op, ": argument ", x.name, " is on ", x.tensor.device(), "; expected ", device,
                      ", the device of ", first);
  }
}

bool is_working_type(at::ScalarType type) { return type == at::kFloat || type == at::kBFloat16 || type == at::kDouble; }

void check_int64(const char* op, const Named& x) {
  TORCH_CHECK_TYPE(x.tensor.scalar_type() == at::kLong, op, ": argument ", x.name, " has dtype ", x.tensor.scalar_type(),
                   "; expected int64 (torch.int64)");
}

}  // namespace

void HsaArguments::check() const {
  check_dimensions(op, {"q", q}, "[B, L, H, D]");
  check_dimensions(op, {"k", k}, "[B, M, G, D]");
  check_dimensions(op, {"v", v}, "[B, M, G, D]");
  check_dimensions(op, {"index", index}, "[B, L, 1 or G, N]");
  check_dimensions(op, {"weight", weight}, "[B, L, 1, G or H, N]");
  TORCH_CHECK_VALUE(chunk >= 1, op, ": argument chunk is ", chunk, "; expected the tokens of a chunk, at least 1");
  check_device(op, "q", q.device(), {{"k", k}, {"v", v}, {"index", index}, {"weight", weight}});

  const auto type = q.scalar_type();
  TORCH_CHECK_TYPE(is_working_type(type), op, ": argument q has dtype ", type, "; expected float32, bfloat16 or float64");
  TORCH_CHECK_TYPE(k.scalar_type() == type, op, ": argument k has dtype ", k.scalar_type(), "; expected ", type, ", that of q");
  TORCH_CHECK_TYPE(v.scalar_type() == type, op, ": argument v has dtype ", v.scalar_type(), "; expected ", type, ", that of q");
  TORCH_CHECK_TYPE(weight.scalar_type() == type || weight.scalar_type() == at::kFloat, op, ": argument weight has dtype ",
                   weight.scalar_type(), "; expected Float or ", type, ", that of q");
  check_int64(op, {"index", index});

  const c10::SymInt B = q.sym_size(0), L = q.sym_size(1), H = q.sym_size(2), D = q.sym_size(3), G = k.sym_size(2);
  TORCH_CHECK_VALUE(H >= 1 && D >= 1, op, ": argument q has shape ", q.sym_sizes(),
                    "; expected [B, L, H, D] with at least 1 head of width 1");
  TORCH_CHECK_VALUE(G >= 1 && H % G == 0, op, ": argument k has shape ", k.sym_sizes(), "; expected [B, M, G, D] with G a divisor of the ",
                    H, " heads of q");
  check_size(op, {"k", k}, 0, B, "q", "[B, M, G, D]");
  check_size(op, {"k", k}, 3, D, "q", "[B, M, G, D]");
  for (int64_t d = 0; d < 4; ++d) check_size(op, {"v", v}, d, k.sym_size(d), "k", "[B, M, G, D]");
  check_size(op, {"index", index}, 0, B, "q", "[B, L, 1 or G, N]");
  check_size(op, {"index", index}, 1, L, "q", "[B, L, 1 or G, N]");
  TORCH_CHECK_VALUE(index.sym_size(2) == 1 || index.sym_size(2) == G, op, ": argument index has shape ", index.sym_sizes(),
                    "; expected [B, L, 1 or G, N] with 1 or ", G, " (the key/value heads of k) in dimension 2");
  check_size(op, {"weight", weight}, 0, B, "q", "[B, L, 1, G or H, N]");
  check_size(op, {"weight", weight}, 1, L, "q", "[B, L, 1, G or H, N]");
  check_size(op, {"weight", weight}, 3, slots(), "index", "[B, L, 1, G or H, N]");
  const c10::SymInt Hw = weight.sym_size(2);
  TORCH_CHECK_VALUE(Hw == 1 || Hw == G || Hw == H, op, ": argument weight has shape ", weight.sym_sizes(),
                    "; expected [B, L, 1, G or H, N] with 1, ", G, " or ", H, " in dimension 2");
}

void HsaArguments::check_grads(const at::Tensor& grad_o, const at::Tensor& grad_lse) const {
  check_dimensions(op, {"grad_o", grad_o}, "[B, L, H, D]");
  check_device(op, "q", q.device(), {{"grad_o", grad_o}});
  for (int64_t d = 0; d < 4; ++d) check_size(op, {"grad_o", grad_o}, d, q.sym_size(d), "q", "[B, L, H, D]");
  TORCH_CHECK_TYPE(grad_o.is_floating_point(), op, ": argument grad_o has dtype ", grad_o.scalar_type(), "; expected ", q.scalar_type());
  if (!grad_lse.defined()) return;
  check_dimensions(op, {"grad_lse", grad_lse}, "[B, L, H, N]");
  check_device(op, "q", q.device(), {{"grad_lse", grad_lse}});
  for (int64_t d = 0; d < 3; ++d) check_size(op, {"grad_lse", grad_lse}, d, q.sym_size(d), "q", "[B, L, H, N]");
  check_size(op, {"grad_lse", grad_lse}, 3, slots(), "index", "[B, L, H, N]");
  TORCH_CHECK_TYPE(grad_lse.is_floating_point(), op, ": argument grad_lse has dtype ", grad_lse.scalar_type(), "; expected Float");
}

void HsaArguments::check_index(bool whole) const {
  if (index.numel() == 0) return;
  const int64_t chunks = k.size(1) / chunk;
  if (whole) {
    try {
      cairn::check_index(index, chunks);
    } catch (const UserError& error) {
      TORCH_CHECK_VALUE(false, "cairn::", error.what());
    }
  } else if (index.is_cpu()) {  // the kernels of a CPU take an index at its word
    const auto [low, high] = at::aminmax(index);
    const int64_t least = low.item<int64_t>(), most = high.item<int64_t>();
    TORCH_CHECK_VALUE(least >= -1 && most < chunks, op, ": argument index holds ", least < -1 ? least : most,
                      "; expected chunk numbers below ", chunks, " (", k.size(1), " keys in chunks of ", chunk,
                      "), or -1 for an unused slot");
  }
}

std::string HsaArguments::describe() const {
  return c10::str("in ", op, " with q ", q.sym_sizes(), ", k ", k.sym_sizes(), ", index ", index.sym_sizes(), ", chunk ", chunk, ", ",
                  q.scalar_type(), " on ", q.device());
}

bool HsaArguments::nothing_to_do() const { return index.size(0) * index.size(1) * index.size(3) == 0 || k.size(1) < chunk; }

void SelectArguments::check() const {
  check_dimensions(op, {"rq", rq}, "[B, L, Q, Dr]");
  check_dimensions(op, {"landmarks", landmarks}, "[B, C, Q, Dr]");
  check_device(op, "rq", rq.device(), {{"landmarks", landmarks}});
  const auto type = rq.scalar_type(), other = landmarks.scalar_type();
  TORCH_CHECK_TYPE(is_working_type(type), op, ": argument rq has dtype ", type, "; expected float32, bfloat16 or float64");
  TORCH_CHECK_TYPE(type == at::kDouble ? other == at::kDouble : other == at::kFloat || other == at::kBFloat16, op,
                   ": argument landmarks has dtype ", other, "; expected ",
                   type == at::kDouble ? "Double, that of rq" : "Float or BFloat16");
  TORCH_CHECK_VALUE(rq.sym_size(2) >= 1 && rq.sym_size(3) >= 1, op, ": argument rq has shape ", rq.sym_sizes(),
                    "; expected [B, L, Q, Dr] with at least 1 head of width 1");
  for (const int64_t d : {0, 2, 3}) check_size(op, {"landmarks", landmarks}, d, rq.sym_size(d), "rq", "[B, C, Q, Dr]");
  TORCH_CHECK_VALUE(landmarks.sym_size(1) < (int64_t{1} << 31), op, ": argument landmarks has ", landmarks.sym_size(1),
                    " chunks; expected fewer than 2^31");
}

void SelectArguments::check_numbers(int64_t top_k, int64_t chunk, const c10::SymInt& first_position, const c10::SymInt& first_chunk,
                                    const c10::SymInt& exclude_window) const {
  constexpr int64_t kFarthest = int64_t{1} << 61;
  TORCH_CHECK_VALUE(top_k >= 1 && top_k < (int64_t{1} << 31), op, ": argument top_k is ", top_k, "; expected 1 or more chunks");
  TORCH_CHECK_VALUE(chunk >= 1, op, ": argument chunk is ", chunk, "; expected the tokens of a chunk, at least 1");
  TORCH_CHECK_VALUE(first_position >= -1 && first_position < kFarthest, op, ": argument first_position is ", first_position,
                    "; expected the position of row 0, at least 0 (-1: the row before a text)");
  TORCH_CHECK_VALUE(first_chunk >= 0 && first_chunk < kFarthest, op, ": argument first_chunk is ", first_chunk,
                    "; expected the number of landmark 0, at least 0");
  TORCH_CHECK_VALUE(exclude_window >= 0 && exclude_window < kFarthest, op, ": argument exclude_window is ", exclude_window,
                    "; expected the tokens of a window, or 0 for none");
}

std::string SelectArguments::describe() const {
  return c10::str("in ", op, " with rq ", rq.sym_sizes(), ", landmarks ", landmarks.sym_sizes(), ", ", rq.scalar_type(), " on ",
                  rq.device());
}

void SelectArguments::check_saved(const at::Tensor& grad_score, const at::Tensor& index) const {
  check_dimensions(op, {"grad_score", grad_score}, "[B, L, Q, N]");
  check_dimensions(op, {"index", index}, "[B, L, Q, N]");
  check_device(op, "rq", rq.device(), {{"grad_score", grad_score}, {"index", index}});
  for (int64_t d = 0; d < 3; ++d) check_size(op, {"index", index}, d, rq.sym_size(d), "rq", "[B, L, Q, N]");
  for (int64_t d = 0; d < 4; ++d) check_size(op, {"grad_score", grad_score}, d, index.sym_size(d), "index", "[B, L, Q, N]");
  TORCH_CHECK_TYPE(grad_score.is_floating_point(), op, ": argument grad_score has dtype ", grad_score.scalar_type(), "; expected Float");
  check_int64(op, {"index", index});
}

}  // namespace cairn::pytorch
