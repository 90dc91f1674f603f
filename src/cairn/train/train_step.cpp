#include "cairn/train/train_step.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <utility>

#include "cairn/core/error.h"
#include "cairn/core/log.h"
#include "cairn/ops/cuda/kernels.h"
#include "cairn/ops/select/noise.h"

namespace cairn {
namespace {

bool switched_off() {
  const char* text = std::getenv("CAIRN_PLAIN_STEPS");
  return text != nullptr && std::string(text) == "1";
}

}  // namespace

TrainStep::TrainStep(std::shared_ptr<Model> model, Optimizer* optimizer, TrainConfig config, std::shared_ptr<World> world,
                     at::Device device)
    : model_(std::move(model)),
      optimizer_(optimizer),
      config_(std::move(config)),
      world_(std::move(world)),
      device_(device),
      sum_(model_->parameters(), world_, GradientSum::bucket_numbers(model_->parameters()->count())) {
  if (device_.is_cpu()) return;
  first_row_ = at::zeros({}, at::TensorOptions(at::kLong).device(device_));
  const c10::impl::VirtualGuardImpl gpu(device_.type());
  upload_ = gpu.getStreamFromGlobalPool(gpu.getDevice());
  for (Slot& slot : slots_) {
    slot.filled.emplace(device_.type());
    slot.taken.emplace(device_.type());
  }
}

TrainStep::~TrainStep() = default;

void TrainStep::place(const Batch& batch) {
  if (device_.is_cpu()) {
    batch_ = batch;
    return;
  }
  const int64_t sequences = batch.tokens.size(0), length = batch.tokens.size(1);
  CAIRN_CHECK(batch.packed.defined(), "a batch of parts; make_batch() makes whole ones");
  const bool same_shape = batch_.packed.defined() && batch_.tokens.sizes() == batch.tokens.sizes();
  if (!same_shape) {
    const auto bytes = [&] { return at::empty({batch.packed.numel()}, at::TensorOptions(at::kByte).device(device_)); };
    // What still travels to or from the old places may not meet their memory's next user.
    c10::impl::VirtualGuardImpl(device_.type()).synchronizeDevice(device_.index());
    batch_ = Batch::of(bytes(), sequences, length, batch.first, batch.room);
    for (Slot& slot : slots_) slot.packed = bytes();
    c10::impl::VirtualGuardImpl(device_.type()).synchronizeDevice(device_.index());
  }
  batch_.first = batch.first;
  batch_.room = std::max(batch_.room, batch.room);
  if (batch.packed.is_cpu()) {
    // Beside the step before: the upload waits for nothing but its slot, which the step before the last has emptied.
    const c10::Stream compute = c10::impl::VirtualGuardImpl(device_.type()).getStream(device_);
    Slot& slot = slots_[turn_++ % 2];
    slot.taken->synchronize();
    {
      const c10::StreamGuard guard(*upload_);
      slot.packed.copy_(batch.packed, /*non_blocking=*/true);
      slot.filled->record(*upload_);
    }
    slot.filled->block(compute);
    batch_.packed.copy_(slot.packed);
    slot.taken->record(compute);
  } else {
    batch_.packed.copy_(batch.packed);
  }
  first_row_.fill_(batch.first);
}

void TrainStep::compute(const Moment& moment) {
  losses_ = step_gradients(*model_, batch_, moment, config_, world_, &sum_);
  optimizer_->update(global_loss(losses_, *world_));
}

bool TrainStep::can_record(const Moment& moment) const {
  const CudaKernels* own = device_.is_cuda() ? cuda_kernels() : nullptr;
  if (own == nullptr || own->record == nullptr || own->hsa_supports == nullptr || !why_.empty() || switched_off()) return false;
  // fp32 takes plain paths, of which nobody has made sure that they ask the device for nothing.
  const ModelConfig& c = config_.model;
  if (config_.train.precision != "bf16") return false;
  SumsAside* const aside = sums_aside(*world_);
  if (aside != nullptr && !aside->can_be_recorded()) return false;
  const int64_t chunks = moment.length / c.chunk, chosen = std::min(moment.top_k, chunks);
  if (chunks == 0) return false;
  const at::TensorOptions options = at::TensorOptions(at::kBFloat16).device(device_);
  const at::Tensor q = at::empty({1, moment.length, c.memory_heads, c.head_dim}, options),
                   k = at::empty({1, chunks * c.chunk, c.memory_kv_heads, c.head_dim}, options),
                   index = at::empty({1, moment.length, c.retrieval_heads, chosen}, options.dtype(at::kLong)),
                   weight = at::empty({1, moment.length, c.retrieval_heads, chosen}, options.dtype(at::kFloat));
  if (!own->hsa_supports(q, k, index, weight, c.chunk, c.off_by_one, /*want_lse=*/moment.alpha > 0)) return false;
  if (moment.alpha > 0) {  // weights a head; for distillation perhaps the masses of all chunks
    const at::Tensor each = at::empty({1, moment.length, c.memory_heads, chosen}, weight.options()),
                     all = at::empty({1, moment.length, 1, chunks}, index.options()),
                     none = at::empty({1, moment.length, 1, chunks}, weight.options());
    if (!own->hsa_supports(q, k, index, each, c.chunk, false, false)) return false;
    if (moment.distillation_weight > 0 && !own->hsa_supports(q, k, all, none, c.chunk, false, true)) return false;
  }
  if (chosen == chunks) return true;
  const at::Tensor score = at::empty({1, moment.length, c.retrieval_heads, chunks}, options.dtype(at::kFloat));
  return own->select_given_supports != nullptr && own->select_given_supports(score, chosen);
}

void TrainStep::record(const Moment& moment) {
  losses_ = {};
  // The recording has memory of its own; that of the steps before goes back first, so that both are not held at once.
  at::getDeviceAllocator(device_.type())->emptyCache();
  const int64_t first = batch_.first;
  batch_.first = 0;
  try {
    const NoiseRowOnDevice row(first_row_);
    work_ = cuda_kernels()->record([&] { compute(moment); });
    ++recordings_;
  } catch (const c10::Error& error) {
    work_.reset();
    losses_ = {};
    why_ = error.what_without_backtrace();
    log_warn("the training step cannot be recorded, it is queued kernel by kernel: {}", why_);
    at::getDeviceAllocator(device_.type())->emptyCache();
  }
  batch_.first = first;
}

const StepLosses& TrainStep::run(const Batch& batch, const Moment& moment) {
  place(batch);
  const Kind kind = {batch_.tokens.size(0), batch_.room, moment.length,       moment.top_k,
                     moment.alpha,          moment.beta, moment.route_weight, moment.distillation_weight};
  if (kind_ != kind) {
    losses_ = {};
    if (work_ != nullptr) {
      work_.reset();
      at::getDeviceAllocator(device_.type())->emptyCache();  // what the recording held
    }
    equal_steps_ = 0;
    kind_ = kind;
  }
  optimizer_->set_rate(moment.lr);
  if (work_ == nullptr && equal_steps_ == kWarm && can_record(moment)) record(moment);
  if (work_ != nullptr) {
    work_->replay();
    if (SumsAside* const aside = sums_aside(*world_)) aside->replayed();
  } else {
    compute(moment);
  }
  ++equal_steps_;
  optimizer_->updated();
  return losses_;
}

}  // namespace cairn
