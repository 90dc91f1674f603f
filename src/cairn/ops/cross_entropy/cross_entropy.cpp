#include "cairn/ops/cross_entropy/cross_entropy.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "cairn/core/error.h"
#include "cairn/ops/cross_entropy/check.h"
#include "cairn/ops/cross_entropy/kernels.h"
#include "cairn/ops/cuda/kernels.h"
#include "cairn/ops/simd/isa.h"

namespace cairn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kGrain = 16384;  // logits a thread takes at least
// On a GPU logits of small vocabularies wait for the backward (1 GB at most); larger ones are multiplied again there.
constexpr int64_t kKept = int64_t{1} << 28;

// Numbers of a block of logits: 4 MB in fp32 on a CPU, so that they stay in its caches; 512 MB on a GPU, where larger products pay.
int64_t block_rows(const at::Tensor& embedding) {
  const int64_t numbers = embedding.is_cuda() ? int64_t{1} << 27 : int64_t{1} << 20;
  return std::clamp<int64_t>(numbers / std::max<int64_t>(1, embedding.size(0)), 64, 16384);
}

at::ScalarType accumulate_type(const at::Tensor& t) { return t.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

// The embedding as the blocks' products take it: short numbers stay short on a GPU (its products give fp32 from them), else fp32 or fp64.
at::Tensor for_products(const at::Tensor& t) { return t.is_cuda() ? t : t.to(accumulate_type(t)); }

// fp32 (fp64) logits of some rows, [n, vocab].
at::Tensor logits_of(const at::Tensor& hidden, const at::Tensor& embedding) {
  const auto type = accumulate_type(hidden);
  if (hidden.is_cuda() && hidden.scalar_type() != type) return at::mm(hidden, embedding.t(), type);
  return at::mm(hidden.to(embedding.scalar_type()), embedding.t());
}

struct Statistics {
  at::Tensor loss, correct, lse;
};

bool has_kernels(const at::Tensor& logits) { return logits.is_cpu() && logits.scalar_type() == at::kFloat; }

const CudaKernels* cuda_kernels_for(const at::Tensor& logits) {
  const CudaKernels* kernels = logits.is_cuda() ? cuda_kernels() : nullptr;
  return kernels != nullptr && kernels->cross_entropy_supports != nullptr && kernels->cross_entropy_supports(logits) ? kernels : nullptr;
}

// Fills rows first .. first + n of the statistics from their logits, one pass each for the largest and for the sum.
void statistics_of(const at::Tensor& logits, const at::Tensor& target, int64_t first, Statistics& s) {
  const int64_t n = logits.size(0), vocab = logits.size(1);
  const float* const x = logits.const_data_ptr<float>();
  const int64_t* const goal = target.const_data_ptr<int64_t>() + first;
  float* const lse = s.lse.mutable_data_ptr<float>() + first;
  float* const loss = s.loss.mutable_data_ptr<float>() + first;
  bool* const correct = s.correct.mutable_data_ptr<bool>() + first;
  const CrossEntropyKernels& kernels = cross_entropy_kernels();
  at::parallel_for(0, n, std::max<int64_t>(1, kGrain / vocab), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      CAIRN_CHECK(goal[i] >= 0 && goal[i] < vocab, "cross entropy: target {} of a vocabulary of {}", goal[i], vocab);
      int64_t best = 0;
      kernels.statistics(x + i * vocab, vocab, lse + i, &best);
      loss[i] = lse[i] - x[i * vocab + goal[i]];
      correct[i] = best == goal[i];
    }
  });
}

// Logits replaced by their gradient g (softmax - onehot).
void gradient_of(at::Tensor& logits, const at::Tensor& lse, const at::Tensor& target, const at::Tensor& g) {
  const int64_t vocab = logits.size(1);
  float* const x = logits.mutable_data_ptr<float>();
  const float* const statistic = lse.const_data_ptr<float>();
  const float* const scale = g.const_data_ptr<float>();
  const int64_t* const goal = target.const_data_ptr<int64_t>();
  const CrossEntropyKernels& kernels = cross_entropy_kernels();
  at::parallel_for(0, logits.size(0), std::max<int64_t>(1, kGrain / vocab), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) kernels.gradient(x + i * vocab, vocab, statistic[i], goal[i], scale[i]);
  });
}

// kept: takes the blocks' logits, or null.
Statistics forward_of(const at::Tensor& hidden, const at::Tensor& embedding_given, const at::Tensor& target_given,
                      std::vector<at::Tensor>* kept = nullptr) {
  const at::Tensor target = target_given.contiguous();
  const int64_t rows = hidden.size(0), block = block_rows(embedding_given);
  const at::Tensor embedding = for_products(embedding_given);
  const auto options = hidden.options().dtype(accumulate_type(hidden));
  Statistics s{at::empty({rows}, options), at::empty({rows}, options.dtype(at::kBool)), at::empty({rows}, options)};
  for (int64_t r = 0; r < rows; r += block) {
    const int64_t n = std::min(block, rows - r);
    const at::Tensor logits = logits_of(hidden.narrow(0, r, n), embedding), goal = target.narrow(0, r, n);
    if (kept != nullptr) kept->push_back(logits);
    if (has_kernels(logits)) {
      statistics_of(logits, target, r, s);
      continue;
    }
    at::Tensor lse = s.lse.narrow(0, r, n);
    if (const CudaKernels* kernels = cuda_kernels_for(logits)) {
      kernels->cross_entropy_statistics(logits, goal, lse, s.loss.narrow(0, r, n), s.correct.narrow(0, r, n));
      continue;
    }
    lse.copy_(at::logsumexp(logits, {1}));
    s.loss.narrow(0, r, n).copy_(lse - logits.gather(1, goal.unsqueeze(1)).squeeze(1));
    s.correct.narrow(0, r, n).copy_(at::argmax(logits, 1) == goal);
  }
  return s;
}

struct CrossEntropyFunction : torch::autograd::Function<CrossEntropyFunction> {
  static variable_list forward(AutogradContext* context, const at::Tensor& hidden, const at::Tensor& embedding, const at::Tensor& target) {
    std::vector<at::Tensor> logits;
    const bool keep = hidden.is_cuda() && hidden.size(0) * embedding.size(0) <= kKept;
    const Statistics s = forward_of(hidden, embedding, target, keep ? &logits : nullptr);
    if (keep) context->saved_data["logits"] = logits;
    context->save_for_backward({hidden, embedding, target, s.lse});
    context->mark_non_differentiable({s.correct});
    return {s.loss, s.correct};
  }

  // d logits = g (softmax - onehot), block by block from the saved log-sum-exp. Kept logits are overwritten: another backward makes them
  // again.
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const variable_list saved = context->get_saved_variables();
    std::vector<at::Tensor> kept;
    if (const auto found = context->saved_data.find("logits"); found != context->saved_data.end()) {
      kept = found->second.toTensorVector();
      context->saved_data.erase(found);
    }
    const at::Tensor &hidden = saved[0], &lse = saved[3];
    const at::Tensor target = saved[2].contiguous();
    const at::Tensor embedding = for_products(saved[1]);
    const int64_t rows = hidden.size(0), block = block_rows(embedding);
    const auto type = accumulate_type(hidden);
    at::Tensor d_hidden = at::empty_like(hidden, at::MemoryFormat::Contiguous);
    at::Tensor d_embedding = at::zeros(embedding.sizes(), embedding.options().dtype(type));
    for (int64_t r = 0; r < rows; r += block) {
      const int64_t n = std::min(block, rows - r);
      const at::Tensor h = hidden.narrow(0, r, n), g = grads[0].narrow(0, r, n).to(type).contiguous();
      at::Tensor d = kept.empty() ? logits_of(h, embedding) : std::move(kept[static_cast<size_t>(r / block)]);
      if (const CudaKernels* kernels = cuda_kernels_for(d)) {
        d = kernels->cross_entropy_gradient(d, target.narrow(0, r, n), lse.narrow(0, r, n), g, embedding.scalar_type());
      } else if (has_kernels(d)) {
        gradient_of(d, lse.narrow(0, r, n), target.narrow(0, r, n), g);
      } else {
        d.sub_(lse.narrow(0, r, n).unsqueeze(1)).exp_().mul_(g.unsqueeze(1));
        d.scatter_add_(1, target.narrow(0, r, n).unsqueeze(1), -g.unsqueeze(1));
      }
      d = d.to(embedding.scalar_type());
      at::Tensor d_rows = d_hidden.narrow(0, r, n);
      if (d_hidden.scalar_type() == d.scalar_type())
        at::mm_out(d_rows, d, embedding);
      else
        d_rows.copy_(at::mm(d, embedding));
      const at::Tensor d_t = d.t();
      if (d.scalar_type() == type)
        d_embedding.addmm_(d_t, h.to(type));
      else
        d_embedding.add_(at::mm(d_t, h, type));
    }
    return {d_hidden, d_embedding.to(saved[1].scalar_type()), {}};
  }
};

}  // namespace

const CrossEntropyKernels& cross_entropy_kernels() {
  switch (cpu_isa()) {
    case Isa::kAvx512:
      return cross_entropy_kernels_avx512;
    case Isa::kAvx2:
      return cross_entropy_kernels_avx2;
    default:
      return cross_entropy_kernels_generic;
  }
}

CrossEntropy linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& embedding, const at::Tensor& target) {
  check_cross_entropy(hidden, embedding, target);
  if (at::GradMode::is_enabled() && (hidden.requires_grad() || embedding.requires_grad())) {
    const variable_list out = CrossEntropyFunction::apply(hidden, embedding, target);
    return {out[0], out[1]};
  }
  const Statistics s = forward_of(hidden, embedding, target);
  return {s.loss, s.correct};
}

}  // namespace cairn
