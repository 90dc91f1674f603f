#include "cairn/ops/split/split.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <torch/csrc/autograd/custom_function.h>

#include <numeric>

#include "cairn/core/error.h"

namespace cairn {
namespace {

std::vector<at::Tensor> views(const at::Tensor& x, const std::vector<int64_t>& widths) {
  std::vector<at::Tensor> parts;
  int64_t begin = 0;
  for (const int64_t width : widths) {
    parts.push_back(x.narrow(-1, begin, width));
    begin += width;
  }
  return parts;
}

struct SplitFunction : torch::autograd::Function<SplitFunction> {
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext*, const at::Tensor& x,
                                                const std::vector<int64_t>& widths) {
    return views(x, widths);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext*, torch::autograd::variable_list grads) {
    return {at::cat(grads, -1), at::Tensor()};
  }
};

}  // namespace

std::vector<at::Tensor> split_columns(const at::Tensor& x, const std::vector<int64_t>& widths) {
  CAIRN_CHECK(x.dim() >= 1 && std::accumulate(widths.begin(), widths.end(), int64_t{0}) == x.size(-1), "{} columns split in {} parts",
              x.dim() ? x.size(-1) : 0, widths.size());
  return at::GradMode::is_enabled() && x.requires_grad() ? SplitFunction::apply(x, widths) : views(x, widths);
}

}  // namespace cairn
