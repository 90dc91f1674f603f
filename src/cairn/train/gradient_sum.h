// The sum of gradients over processes while the backward pass still runs. The flat gradient buffer is cut into buckets in the order in
// which the backward pass finishes them: matrices from the last to the first, the vectors (norms, biases), and last the embedding, whose
// gradient is the last of all. A bucket travels as soon as its last gradient is written.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "cairn/dist/aside.h"
#include "cairn/model/parameters.h"

namespace cairn {

class GradientSum {
 public:
  // Numbers of a bucket: at least 16 MB of fp32, at most about eight buckets.
  static int64_t bucket_numbers(int64_t parameters) { return std::max<int64_t>(int64_t{1} << 22, parameters / 8); }

  // Leaves hooks at the parameters' leaves until it ends; one such object at a time. Nothing happens in a world of one.
  GradientSum(std::shared_ptr<Parameters> parameters, std::shared_ptr<World> world, int64_t numbers);
  ~GradientSum();
  GradientSum(const GradientSum&) = delete;
  GradientSum& operator=(const GradientSum&) = delete;

  // Before the last backward pass of a step (gradients of passes before it are only added up). Between begin() and finish() the gradients
  // belong to this object. Again without finish(): the pass before was given up.
  void begin();
  // After it: sends what has not been sent (parameters without a gradient in this pass), and lets what follows find all sums done.
  void finish();

  struct Bucket {
    int64_t begin = 0, end = 0;  // numbers of the flat buffer
    int64_t members = 0;         // parameters in it
  };
  const std::vector<Bucket>& buckets() const { return buckets_; }

 private:
  struct Hook;
  void written(size_t bucket);
  void send_ready();

  std::shared_ptr<Parameters> parameters_;
  std::shared_ptr<World> world_;
  SumsAside* aside_;  // null: a world of one
  std::vector<Bucket> buckets_;
  std::vector<int64_t> missing_;  // of each bucket: gradients that are not written yet
  size_t next_ = 0;               // buckets before it are sent: the order is the same in all processes
  bool open_ = false;
};

// The buckets of a layout: contiguous, disjoint, all numbers, in the order above.
std::vector<GradientSum::Bucket> gradient_buckets(const Parameters& parameters, int64_t numbers);

}  // namespace cairn
