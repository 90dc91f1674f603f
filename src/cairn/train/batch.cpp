#include "cairn/train/batch.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <map>
#include <mutex>
#include <thread>

#include "cairn/core/error.h"
#include "cairn/model/losses.h"

namespace cairn {

Batch Batch::to(at::Device device) const {
  if (device.is_cpu()) return *this;
  const auto move = [&](const at::Tensor& t) { return t.to(device, t.scalar_type(), /*non_blocking=*/true); };
  return {move(tokens), move(target), move(weight), move(source), move(key), move(is_answer), move(task), first};
}

Batch make_batch(const TaskSet& tasks, const std::vector<std::string>& task_names, uint64_t seed, int64_t first, int64_t count,
                 int64_t length, int64_t chunk, bool pinned) {
  const auto options = [&](at::ScalarType dtype) { return at::TensorOptions().dtype(dtype).pinned_memory(pinned); };
  Batch batch;
  batch.first = first;
  batch.tokens = at::empty({count, length}, options(at::kLong));
  batch.target = at::empty({count, length}, options(at::kLong));
  batch.weight = at::empty({count, length}, options(at::kFloat));
  batch.source = at::empty({count, length, 2}, options(at::kLong));
  batch.key = at::empty({count, length}, options(at::kLong));
  batch.is_answer = at::empty({count, length}, options(at::kBool));
  batch.task = at::empty({count}, options(at::kLong));
  auto* tokens = batch.tokens.data_ptr<int64_t>();
  auto* target = batch.target.data_ptr<int64_t>();
  auto* weight = batch.weight.data_ptr<float>();
  auto* source = batch.source.data_ptr<int64_t>();
  auto* key = batch.key.data_ptr<int64_t>();
  auto* is_answer = batch.is_answer.data_ptr<bool>();
  auto* task = batch.task.data_ptr<int64_t>();
  for (int64_t b = 0; b < count; ++b) {
    const Sample sample = tasks.training_sample(seed, first + b, length);
    CAIRN_CHECK(static_cast<int64_t>(sample.tokens.size()) == length + 1 && static_cast<int64_t>(sample.weight.size()) == length &&
                    static_cast<int64_t>(sample.is_answer.size()) == length && static_cast<int64_t>(sample.source.size()) == length &&
                    static_cast<int64_t>(sample.key.size()) == length,
                "sample {} of task {} has {} tokens, not {}", first + b, sample.task, sample.tokens.size(), length + 1);
    const auto found = std::find(task_names.begin(), task_names.end(), sample.task);
    CAIRN_CHECK(found != task_names.end(), "task {} is not in the mix", sample.task);
    task[b] = found - task_names.begin();
    for (int64_t t = 0; t < length; ++t) {
      const int64_t row = b * length + t;
      tokens[row] = sample.tokens[t];
      target[row] = sample.tokens[t + 1];
      weight[row] = sample.weight[t];
      is_answer[row] = sample.is_answer[t] != 0;
      key[row] = sample.key[t] == 0 ? 0 : 1 + static_cast<int64_t>(sample.key[t] % (kKeyClasses - 1));
      for (int k = 0; k < 2; ++k) {
        const int64_t position = sample.source[t][k];
        source[2 * row + k] = position < 0 ? -1 : position / chunk;
      }
    }
  }
  return batch;
}

struct BatchLoader::Impl {
  Impl(std::shared_ptr<const TaskSet> t, BatchPlan p) : tasks(std::move(t)), plan(std::move(p)) {}

  // What a thread does: take the lowest step that nobody makes yet, make it, put it on the shelf.
  void work() {
    std::unique_lock lock(mutex);
    for (;;) {
      wake.wait(lock, [&] { return stop || (length > 0 && next_to_make < next_to_use + ahead); });
      if (stop) return;
      const int64_t step = next_to_make++, made_length = length, made_epoch = epoch;
      lock.unlock();
      Batch batch;
      std::exception_ptr error;
      try {
        const int64_t own = plan.batch_tokens / made_length / plan.world_size;
        const int64_t first = step * own * plan.world_size + plan.rank * own;
        batch = make_batch(*tasks, plan.task_names, plan.seed, first, own, made_length, plan.chunk, plan.pinned);
      } catch (...) {
        error = std::current_exception();
      }
      lock.lock();
      if (made_epoch == epoch) {
        shelf[step] = {std::move(batch), error};
        ready.notify_all();
      }
    }
  }

  struct Made {
    Batch batch;
    std::exception_ptr error;
  };

  std::shared_ptr<const TaskSet> tasks;
  BatchPlan plan;
  std::mutex mutex;
  std::condition_variable wake, ready;
  std::map<int64_t, Made> shelf;
  std::vector<std::thread> threads;
  int64_t ahead = 2;
  int64_t length = 0, epoch = 0;  // a new epoch with each jump of step or length: what older ones made is discarded
  int64_t next_to_make = 0, next_to_use = 0;
  bool stop = false;
};

BatchLoader::BatchLoader(std::shared_ptr<const TaskSet> tasks, BatchPlan plan)
    : impl_(std::make_unique<Impl>(std::move(tasks), std::move(plan))) {
  impl_->ahead = 2 * impl_->plan.threads;
  for (int i = 0; i < impl_->plan.threads; ++i) impl_->threads.emplace_back([this] { impl_->work(); });
}

BatchLoader::~BatchLoader() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->stop = true;
  }
  impl_->wake.notify_all();
  for (auto& thread : impl_->threads) thread.join();
}

int64_t BatchLoader::sequences(int64_t length) const { return impl_->plan.batch_tokens / length / impl_->plan.world_size; }

Batch BatchLoader::next(int64_t step, int64_t length) {
  CAIRN_CHECK(sequences(length) >= 1, "a batch of {} tokens holds no sequence of {} for each of {} processes", impl_->plan.batch_tokens,
              length, impl_->plan.world_size);
  std::unique_lock lock(impl_->mutex);
  if (length != impl_->length || step != impl_->next_to_use) {
    ++impl_->epoch;
    impl_->shelf.clear();
    impl_->length = length;
    impl_->next_to_make = impl_->next_to_use = step;
    impl_->wake.notify_all();
  }
  impl_->ready.wait(lock, [&] { return impl_->shelf.count(step) != 0; });
  Impl::Made made = std::move(impl_->shelf[step]);
  impl_->shelf.erase(step);
  impl_->next_to_use = step + 1;
  impl_->wake.notify_all();
  if (made.error) std::rethrow_exception(made.error);
  return std::move(made.batch);
}

}  // namespace cairn
