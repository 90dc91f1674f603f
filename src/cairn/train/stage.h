// What dry runs, overfitting and benchmarks step with: one batch, no files.
#pragma once

#include <ATen/Parallel.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <chrono>
#include <memory>
#include <vector>

#include "cairn/core/error.h"
#include "cairn/train/batch.h"
#include "cairn/train/estimate.h"
#include "cairn/train/optimizer.h"
#include "cairn/train/schedule.h"
#include "cairn/train/setup.h"
#include "cairn/train/step.h"
#include "cairn/train/train_step.h"
#include "cairn/train/trainer.h"

namespace cairn {

// Everything a rehearsal steps with.
struct Stage {
  at::Device device;
  c10::OptionalDeviceGuard guard;
  Materials materials;
  std::shared_ptr<Model> model;
  std::unique_ptr<Optimizer> optimizer;
  std::shared_ptr<World> world;
  std::unique_ptr<TrainStep> steps;

  Stage(const TrainConfig& config, const TrainRun& run) : device(open_device(run.device)), world(run.world) {
    config.validate();
    if (run.threads > 0) at::set_num_threads(static_cast<int>(run.threads));
    if (device.is_cuda()) guard.reset_device(device);
    materials = open_materials(config);
  }
  void build(const TrainConfig& config) {
    model = make_model(config, device);
    optimizer = std::make_unique<Optimizer>(model->parameters(), config.train);
    steps = std::make_unique<TrainStep>(model, optimizer.get(), config, world, device);
  }
  // Returns this process's share of the cross-entropy; waits for the device.
  double step(const Batch& batch, const Moment& moment) { return steps->run(batch, moment).cross_entropy.item<double>(); }
  // Seconds of each of `count` steps, queued as in training: the host waits for a step once the next one is queued.
  std::vector<double> time_steps(const Batch& batch, const Moment& moment, int64_t count) {
    using Clock = std::chrono::steady_clock;
    std::vector<double> seconds;
    if (device.is_cpu()) {
      for (int64_t i = 0; i < count; ++i) {
        const auto start = Clock::now();
        step(batch, moment);
        seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
      }
      return seconds;
    }
    const c10::impl::VirtualGuardImpl gpu(device.type());
    c10::Event done[2] = {c10::Event(device.type()), c10::Event(device.type())};
    Clock::time_point before;
    for (int64_t i = 0; i <= count; ++i) {  // one more, whose end begins the first interval
      steps->run(batch, moment);
      done[i % 2].record(gpu.getStream(device));
      if (i == 0) continue;
      done[(i - 1) % 2].synchronize();
      const Clock::time_point now = Clock::now();
      if (i > 1) seconds.push_back(std::chrono::duration<double>(now - before).count());
      before = now;
    }
    done[count % 2].synchronize();
    seconds.push_back(std::chrono::duration<double>(Clock::now() - before).count());
    return seconds;
  }
  // So many sequences for each process, every one its own.
  Batch batch(const TrainConfig& config, int64_t sequences, int64_t length) const {
    return make_batch(*materials.tasks, materials.task_names, static_cast<uint64_t>(config.train.seed), world->rank() * sequences,
                      sequences, length, config.model.chunk)
        .to(device);
  }
};

// The middle of a phase that begins at `begin` of the schedule, at the highest rate.
inline Moment moment_of(const TrainConfig& config, const Phase& phase, double begin) {
  Moment moment = Schedule(config).at(config.train.warmup_steps);
  moment.length = phase.length;
  moment.top_k = phase.top_k;
  const double middle = (begin + phase.end) / 2;
  if (!config.train.alpha_ramp.empty()) moment.alpha = middle < config.train.alpha_ramp[1] ? 0.5 : config.model.alpha;
  moment.distillation_weight = config.train.distillation_weight * moment.alpha;
  moment.route_weight = middle >= config.train.route_from ? config.train.route_weight : 0;
  return moment;
}

}  // namespace cairn
