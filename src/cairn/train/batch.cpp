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

namespace {

// An eighth, a quarter, a half of all rows, or all. Text and tasks have a source in 2 to 9 of 100 rows.
int64_t room_for(int64_t used, int64_t rows) {
  for (const int64_t part : {8, 4, 2}) {
    if (used <= rows / part) return rows / part;
  }
  return rows;
}

}  // namespace

// The widest first, so that every tensor is aligned whatever the sizes.
int64_t batch_bytes(int64_t sequences, int64_t length) {
  const int64_t rows = sequences * length;
  return 8 * (rows * 6 + sequences) + 4 * rows + rows;  // tokens, target, source (2), key, rows; task; weight; is_answer
}

Batch Batch::of(const at::Tensor& packed, int64_t sequences, int64_t length, int64_t first, int64_t room) {
  CAIRN_CHECK(packed.scalar_type() == at::kByte && packed.numel() == batch_bytes(sequences, length), "{} bytes for {} sequences of {}",
              packed.numel(), sequences, length);
  int64_t at = 0;
  const auto next = [&](at::ScalarType type, std::vector<int64_t> shape) {
    int64_t numbers = 1;
    for (const int64_t size : shape) numbers *= size;
    const int64_t bytes = numbers * static_cast<int64_t>(c10::elementSize(type));
    const at::Tensor part = packed.narrow(0, at, bytes).view(type).view(shape);
    at += bytes;
    return part;
  };
  Batch batch;
  batch.tokens = next(at::kLong, {sequences, length});
  batch.target = next(at::kLong, {sequences, length});
  batch.source = next(at::kLong, {sequences, length, 2});
  batch.key = next(at::kLong, {sequences, length});
  batch.rows = next(at::kLong, {sequences * length});
  batch.task = next(at::kLong, {sequences});
  batch.weight = next(at::kFloat, {sequences, length});
  batch.is_answer = next(at::kBool, {sequences, length});
  batch.first = first;
  batch.room = room;
  batch.packed = packed;
  return batch;
}

Batch Batch::to(at::Device device) const {
  if (device.is_cpu()) return *this;
  return of(packed.to(device, at::kByte, /*non_blocking=*/true), tokens.size(0), tokens.size(1), first, room);
}

Batch make_batch(const TaskSet& tasks, const std::vector<std::string>& task_names, uint64_t seed, int64_t first, int64_t count,
                 int64_t length, int64_t chunk, bool pinned) {
  Batch batch = Batch::of(at::empty({batch_bytes(count, length)}, at::TensorOptions(at::kByte).pinned_memory(pinned)), count, length, first,
                          count * length);
  auto* tokens = batch.tokens.data_ptr<int64_t>();
  auto* target = batch.target.data_ptr<int64_t>();
  auto* weight = batch.weight.data_ptr<float>();
  auto* source = batch.source.data_ptr<int64_t>();
  auto* key = batch.key.data_ptr<int64_t>();
  auto* is_answer = batch.is_answer.data_ptr<bool>();
  auto* rows = batch.rows.data_ptr<int64_t>();
  auto* task = batch.task.data_ptr<int64_t>();
  int64_t with_source = 0;
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
      bool visible = false;
      for (int k = 0; k < 2; ++k) {
        const int64_t position = sample.source[t][k];
        source[2 * row + k] = position < 0 ? -1 : position / chunk;
        visible = visible || (position >= 0 && t >= (position / chunk + 1) * chunk);
      }
      if (visible) rows[with_source++] = row;
    }
  }
  std::fill(rows + with_source, rows + count * length, -1);
  batch.room = room_for(with_source, count * length);
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
