#include <torch/csrc/autograd/custom_function.h>

#include "cairn/core/error.h"
#include "cairn/dist/world.h"

namespace cairn {
namespace {

// Keeps the world alive from forward to backward.
struct WorldHolder : torch::CustomClassHolder {
  explicit WorldHolder(std::shared_ptr<World> w) : world(std::move(w)) {}
  std::shared_ptr<World> world;
};

class GatherWithGradient : public torch::autograd::Function<GatherWithGradient> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& tensor,
                            const c10::intrusive_ptr<WorldHolder>& holder) {
    context->saved_data["world"] = c10::IValue::make_capsule(holder);
    context->saved_data["rows"] = tensor.size(0);
    return holder->world->all_gather(tensor);
  }

  // Every rank's loss may depend on every rank's rows: the sum over ranks of the gathered gradient, of which this rank keeps its own rows.
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    const auto holder = c10::static_intrusive_pointer_cast<WorldHolder>(context->saved_data["world"].toCapsule());
    const int64_t rows = context->saved_data["rows"].toInt();
    at::Tensor all = gradients[0].clone(at::MemoryFormat::Contiguous);
    holder->world->all_reduce_sum(all);
    return {all.narrow(0, holder->world->rank() * rows, rows), at::Tensor()};
  }
};

}  // namespace

at::Tensor gather_with_gradient(const at::Tensor& tensor, const std::shared_ptr<World>& world) {
  CAIRN_CHECK(tensor.dim() >= 1, "gather_with_gradient needs rows");
  if (world->size() == 1) return tensor;
  return GatherWithGradient::apply(tensor, c10::make_intrusive<WorldHolder>(world));
}

}  // namespace cairn
