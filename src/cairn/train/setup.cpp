#include "cairn/train/setup.h"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "cairn/core/error.h"
#include "cairn/model/losses.h"

namespace cairn {
namespace {

class JoinedSource : public TokenSource {
 public:
  explicit JoinedSource(std::vector<std::shared_ptr<const TokenSource>> parts) : parts_(std::move(parts)) {
    for (const auto& part : parts_) {
      ends_.push_back((ends_.empty() ? 0 : ends_.back()) + part->size());
      name_ += (name_.empty() ? "" : " + ") + part->name();
    }
  }
  int64_t size() const override { return ends_.back(); }
  std::string name() const override { return name_; }
  void read(int64_t begin, std::span<int32_t> out) const override {
    while (!out.empty()) {
      const size_t part = std::upper_bound(ends_.begin(), ends_.end(), begin) - ends_.begin();
      CAIRN_CHECK(part < parts_.size(), "token {} of {}", begin, size());
      const int64_t count = std::min<int64_t>(static_cast<int64_t>(out.size()), ends_[part] - begin);
      parts_[part]->read(begin - (part == 0 ? 0 : ends_[part - 1]), out.first(count));
      begin += count;
      out = out.subspan(count);
    }
  }

 private:
  std::vector<std::shared_ptr<const TokenSource>> parts_;
  std::vector<int64_t> ends_;
  std::string name_;
};

}  // namespace

std::shared_ptr<const TokenSource> join_sources(std::vector<std::shared_ptr<const TokenSource>> parts) {
  if (parts.empty()) return nullptr;
  if (parts.size() == 1) return parts[0];
  for (const auto& part : parts) {
    if (part->size() >= TokenSource::kUnlimited) throw UserError("data.train: \"{}\" has no end, so it can only stand alone", part->name());
  }
  return std::make_shared<JoinedSource>(std::move(parts));
}

Materials open_materials(const TrainConfig& config) {
  Materials m;
  m.tokenizer = config.data.tokenizer == "word_pairs" ? make_word_pairs_tokenizer() : load_tokenizer(config.data.tokenizer);
  if (m.tokenizer->vocab_size() > config.model.vocab) {
    throw UserError("model.vocab = {} is smaller than the tokenizer's vocabulary of {} ({}); set it to at least that", config.model.vocab,
                    m.tokenizer->vocab_size(), config.data.tokenizer);
  }
  std::vector<std::shared_ptr<const TokenSource>> parts;
  for (const auto& name : config.data.train) parts.push_back(open_token_source(name, m.tokenizer));
  m.tasks = std::make_shared<TaskSet>(m.tokenizer, join_sources(std::move(parts)), config.tasks);
  if (!config.data.validation.empty()) {
    m.validation = open_token_source(config.data.validation, m.tokenizer);
    if (m.validation->size() <= config.longest()) {
      throw UserError("data.validation: \"{}\" has {} tokens, fewer than one sequence of {}", config.data.validation, m.validation->size(),
                      config.longest());
    }
  }
  m.task_names = mix_tasks(config.tasks.mix);
  return m;
}

at::Device open_device(const std::string& name) {
  if (name == "cpu") return at::kCPU;
  if (name != "cuda") throw UserError("unknown device \"{}\"; there are cpu and cuda", name);
  if (!at::globalContext().hasCUDA()) {
    throw UserError(
        "no GPU can be used: either this program was built without CUDA (make build CUDA=1), or the machine has no working driver");
  }
  return local_gpu();
}

std::shared_ptr<Model> make_model(const TrainConfig& config, at::Device device) {
  auto parameters = std::make_shared<Parameters>(config.model, device);
  parameters->initialize(static_cast<uint64_t>(config.train.seed));
  parameters->enable_gradients();
  return std::make_shared<Model>(config.model, parameters);
}

BatchPlan batch_plan(const TrainConfig& config, const Materials& materials, const World& world, at::Device device) {
  BatchPlan plan;
  plan.seed = static_cast<uint64_t>(config.train.seed);
  plan.batch_tokens = config.train.batch_tokens;
  plan.chunk = config.model.chunk;
  plan.task_names = materials.task_names;
  plan.rank = world.rank();
  plan.world_size = world.size();
  plan.threads = static_cast<int>(config.train.data_threads);
  plan.pinned = device.is_cuda();
  if (config.train.batch_tokens % (config.longest() * world.size()) != 0) {
    throw UserError("train.batch_tokens = {} cannot be dealt to {} processes in sequences of {} tokens; make it a multiple of {}",
                    config.train.batch_tokens, world.size(), config.longest(), world.size() * config.longest());
  }
  return plan;
}

at::ScalarType compute_type(const TrainConfig& config) { return config.train.precision == "bf16" ? at::kBFloat16 : at::kFloat; }

double validation_loss(const Model& model, const TokenSource& source, const Moment& moment, at::ScalarType compute, int64_t tokens,
                       int64_t batch_tokens, at::Device device, World& world) {
  const at::NoGradGuard no_grad;
  const int64_t length = moment.length;
  const int64_t fits = (source.size() - 1) / length;
  const int64_t sequences = std::max<int64_t>(1, std::min(tokens / length, fits));
  const int64_t stride =
      source.size() >= TokenSource::kUnlimited ? length : (source.size() - 1 - length) / std::max<int64_t>(1, sequences - 1);
  const int64_t rows = std::max<int64_t>(1, batch_tokens / length / world.size());
  ForwardOptions options;
  options.alpha = moment.alpha;
  options.beta = moment.beta;
  options.top_k = moment.top_k;
  options.compute = compute;
  const auto alone = World::single();
  at::Tensor sum = at::zeros({2}, at::TensorOptions().dtype(at::kDouble).device(device));
  std::vector<int32_t> text(length + 1);
  for (int64_t first = world.rank() * rows; first < sequences; first += rows * world.size()) {
    const int64_t count = std::min(rows, sequences - first);
    at::Tensor both = at::empty({count, length + 1}, at::kLong);
    for (int64_t i = 0; i < count; ++i) {
      source.read((first + i) * stride, text);
      std::copy(text.begin(), text.end(), both.data_ptr<int64_t>() + i * (length + 1));
    }
    both = both.to(device);
    const at::Tensor inputs = both.narrow(1, 0, length).contiguous(), target = both.narrow(1, 1, length).contiguous();
    const ForwardResult forward = model.forward(inputs, options);
    const at::Tensor embedding = (*model.parameters())["embed.weight"].to(forward.hidden.scalar_type());
    const TokenLoss loss =
        token_loss(forward.hidden, embedding, target, at::ones({count, length}, sum.options().dtype(at::kFloat)), *alone);
    const at::Tensor part = loss.per_token.to(at::kDouble).sum();
    sum += at::stack({part, at::full({}, static_cast<double>(count * length), part.options())});
  }
  world.all_reduce_sum(sum);
  const at::Tensor host = sum.cpu();
  return host.data_ptr<double>()[0] / host.data_ptr<double>()[1];
}

}  // namespace cairn
