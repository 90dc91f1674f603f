#include "cairn/train/optimizer.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <cstring>

#include "cairn/core/error.h"
#include "cairn/core/safetensors.h"

namespace cairn {
namespace {

// The running norm follows about the last 50 steps, and judges only after so many.
constexpr double kFollow = 0.02;
constexpr double kGuardAfter = 50;

}  // namespace

Optimizer::Optimizer(std::shared_ptr<Parameters> parameters, const TrainOptions& options)
    : parameters_(std::move(parameters)), options_(options) {
  CAIRN_CHECK(parameters_->flat_gradient().defined(), "enable_gradients() first");
  const at::Tensor& flat = parameters_->flat();
  CAIRN_CHECK(flat.scalar_type() == at::kFloat, "weights are trained in fp32");
  average_ = at::zeros_like(flat);
  square_ = at::zeros_like(flat);
  updates_ = at::zeros({}, flat.options());
  norm_ = at::zeros({}, flat.options());
  guard_ = at::zeros({4}, flat.options().dtype(at::kDouble));
  if (!flat.is_cpu()) rate_ = at::zeros({}, flat.options());
}

void Optimizer::step(double lr, const at::Tensor& loss) {
  set_rate(lr);
  update(loss);
  updated();
}

void Optimizer::set_rate(double lr) {
  lr_ = lr;
  if (rate_.defined()) rate_.fill_(lr);
}

// The fused step writes without saying so; what is kept of the weights asks this counter whether they are still the same.
void Optimizer::updated() { parameters_->flat().unsafeGetTensorImpl()->bump_version(); }

void Optimizer::update(const at::Tensor& loss) {
  const at::Tensor& flat = parameters_->flat();
  const at::Tensor& gradient = parameters_->flat_gradient();
  norm_.copy_(at::linalg_vector_norm(gradient, 2));
  const at::Tensor running = guard_.select(0, 0), accepted = guard_.select(0, 1);
  at::Tensor good = norm_.isfinite().logical_and(loss.detach().isfinite());
  if (options_.spike_factor > 0) good = good.logical_and((accepted < kGuardAfter).logical_or(norm_ <= options_.spike_factor * running));
  const at::Tensor bad = good.logical_not().to(at::kFloat);

  // AdamW divides the gradient by `scale` and leaves everything alone where `bad` is 1: clipping and skipping cost no extra pass and no
  // wait.
  std::optional<at::Tensor> scale;
  if (options_.clip > 0) scale = (norm_ / options_.clip).clamp_min(1);
  updates_.add_(good.to(at::kFloat));
  const auto update = [&](int64_t begin, int64_t count, double decay) {
    if (count == 0) return;
    const auto part = [&](const at::Tensor& t) { return std::vector<at::Tensor>{t.narrow(0, begin, count)}; };
    const auto run = [&](const auto& rate) {
      at::_fused_adamw_(part(flat), part(gradient), part(average_), part(square_), {}, std::vector<at::Tensor>{updates_}, rate,
                        options_.betas[0], options_.betas[1], decay, options_.epsilon, /*amsgrad=*/false, /*maximize=*/false, scale, bad);
    };
    if (rate_.defined()) {
      run(rate_);
    } else {
      run(lr_);
    }
  };
  update(0, parameters_->decay_count(), options_.weight_decay);
  update(parameters_->decay_count(), parameters_->count() - parameters_->decay_count(), 0);

  // A step that was left out lifts the bar a little as well: skill forms with a jump of the norm, and a new level must be accepted after a
  // few steps.
  const at::Tensor bar = options_.spike_factor > 0 ? running * options_.spike_factor : running;
  const at::Tensor wide = at::where(good, norm_.to(at::kDouble), bar);
  const at::Tensor follow = at::where(accepted > 0, running + kFollow * (wide - running), at::where(good, wide, running));
  const at::Tensor one = good.to(at::kDouble);
  guard_.copy_(at::stack({follow, accepted + one, guard_.select(0, 2) + (1 - one), (guard_.select(0, 3) + 1) * (1 - one)}));
}

Optimizer::Report Optimizer::report() const {
  const at::Tensor host = guard_.cpu();
  const double* g = host.data_ptr<double>();
  return {norm_.item<double>(), g[0], static_cast<int64_t>(g[1]), static_cast<int64_t>(g[2]), static_cast<int64_t>(g[3])};
}

int64_t Optimizer::bytes() const { return 2 * static_cast<int64_t>(average_.nbytes()); }

void Optimizer::save(const fs::path& file) const {
  std::vector<at::Tensor> kept;
  std::vector<TensorToWrite> list;
  const auto add = [&](const char* name, const at::Tensor& tensor, Dtype dtype) {
    kept.push_back(tensor.cpu().contiguous());
    const at::Tensor& t = kept.back();
    list.push_back({name, dtype, t.sizes().vec(), {static_cast<const uint8_t*>(t.data_ptr()), static_cast<size_t>(t.nbytes())}});
  };
  add("average", average_, Dtype::kF32);
  add("square", square_, Dtype::kF32);
  add("updates", updates_, Dtype::kF32);
  add("guard", guard_, Dtype::kF64);
  write_safetensors(file, list, {{"format", "cairn.optimizer"}, {"version", "1"}});
}

void Optimizer::load(const fs::path& file) {
  const SafetensorsFile source(file);
  const auto take = [&](const char* name, at::Tensor& tensor, Dtype dtype) {
    const TensorInfo& info = source.info(name);
    if (info.dtype != dtype || info.shape != tensor.sizes().vec()) {
      throw UserError("{}: tensor '{}' does not have the shape and type of this model's optimizer", file.string(), name);
    }
    const at::Tensor host = at::empty(tensor.sizes(), tensor.options().device(at::kCPU));
    std::memcpy(host.data_ptr(), source.data(name).data(), source.data(name).size());
    tensor.copy_(host);
  };
  take("average", average_, Dtype::kF32);
  take("square", square_, Dtype::kF32);
  take("updates", updates_, Dtype::kF32);
  take("guard", guard_, Dtype::kF64);
}

}  // namespace cairn
