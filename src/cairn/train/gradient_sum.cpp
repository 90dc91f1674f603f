#include "cairn/train/gradient_sum.h"

#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <utility>

#include "cairn/core/error.h"

namespace cairn {

struct GradientSum::Hook : torch::autograd::PostAccumulateGradHook {
  Hook(GradientSum* s, size_t b) : sum(s), bucket(b) {}
  void operator()(const torch::autograd::Variable&) override { sum->written(bucket); }
  GradientSum* sum;
  size_t bucket;
};

std::vector<GradientSum::Bucket> gradient_buckets(const Parameters& parameters, int64_t numbers) {
  // By place in the flat buffer; a tensor's share goes up to the next one's start (padding included).
  std::vector<int64_t> begins;
  for (const ParameterInfo& info : parameters.infos()) begins.push_back(info.offset);
  std::sort(begins.begin(), begins.end());
  std::vector<GradientSum::Bucket> buckets;
  const int64_t vectors = parameters.decay_count();
  int64_t end = vectors;
  const auto close = [&](int64_t begin, int64_t stop, int64_t members) {
    if (stop > begin) buckets.push_back({begin, stop, members});
  };
  // Matrices from the last to the second; the first is the embedding.
  int64_t members = 0;
  const auto matrices = std::lower_bound(begins.begin(), begins.end(), vectors);
  for (auto it = matrices; it != begins.begin();) {
    --it;
    if (it == begins.begin()) break;
    ++members;
    const bool last = std::prev(it) == begins.begin();
    if (end - *it < numbers && !last) continue;
    close(*it, end, members);
    end = *it;
    members = 0;
  }
  close(vectors, parameters.count(), static_cast<int64_t>(begins.end() - matrices));
  close(0, end, matrices == begins.begin() ? 0 : 1);
  return buckets;
}

GradientSum::GradientSum(std::shared_ptr<Parameters> parameters, std::shared_ptr<World> world, int64_t numbers)
    : parameters_(std::move(parameters)), world_(std::move(world)), aside_(sums_aside(*world_)) {
  CAIRN_CHECK(parameters_->flat_gradient().defined(), "enable_gradients() first");
  CAIRN_CHECK(numbers >= 1, "buckets of {} numbers", numbers);
  buckets_ = gradient_buckets(*parameters_, numbers);
  missing_.resize(buckets_.size());
  if (aside_ == nullptr) return;
  for (const ParameterInfo& info : parameters_->infos()) {
    const auto bucket =
        std::find_if(buckets_.begin(), buckets_.end(), [&](const Bucket& b) { return b.begin <= info.offset && info.offset < b.end; });
    CAIRN_CHECK(bucket != buckets_.end(), "{} is in no bucket", info.name);
    torch::autograd::impl::set_post_acc_grad_hooks((*parameters_)[info.name],
                                                   std::make_unique<Hook>(this, static_cast<size_t>(bucket - buckets_.begin())));
  }
}

GradientSum::~GradientSum() {
  if (aside_ == nullptr) return;
  for (const ParameterInfo& info : parameters_->infos()) torch::autograd::impl::set_post_acc_grad_hooks((*parameters_)[info.name], nullptr);
}

void GradientSum::begin() {
  for (size_t i = 0; i < buckets_.size(); ++i) missing_[i] = buckets_[i].members;
  next_ = 0;
  open_ = true;
}

// In the thread that runs the backward pass, on its stream.
void GradientSum::written(size_t bucket) {
  if (!open_) return;
  --missing_[bucket];
  send_ready();
}

void GradientSum::send_ready() {
  for (; next_ < buckets_.size() && missing_[next_] == 0; ++next_) {
    const Bucket& b = buckets_[next_];
    aside_->start_sum(parameters_->flat_gradient().narrow(0, b.begin, b.end - b.begin));
  }
}

void GradientSum::finish() {
  CAIRN_CHECK(open_, "finish() without begin()");
  open_ = false;
  if (aside_ == nullptr) return;
  std::fill(missing_.begin(), missing_.end(), 0);
  send_ready();
  aside_->join_sums();
}

}  // namespace cairn
