// The operators of torch.ops.cairn and what registers them. Each file fills in the implementations of its operators for the keys of the
// dispatcher: CPU and CUDA, Meta (shapes alone, for torch.compile), Autograd, Autocast.
#pragma once

#include <torch/library.h>

namespace cairn::pytorch {

struct Keys {
  torch::Library &cpu, &cuda, &meta, &autograd, &autocast_cpu, &autocast_cuda;
};

// memory attention [B,L,H,D] and the log-sum-exps [B,L,H,N] ([B,L,H,0] unless asked for); ops/hsa/hsa.h has equation, shapes and dtypes.
inline constexpr const char* kHsaSchema =
    "hsa(Tensor q, Tensor k, Tensor v, Tensor index, Tensor weight, int chunk, *, bool off_by_one=False, bool return_lse=False, "
    "bool check_index=False) -> (Tensor o, Tensor lse)";
inline constexpr const char* kHsaBackwardSchema =
    "hsa_backward(Tensor grad_o, Tensor? grad_lse, Tensor q, Tensor k, Tensor v, Tensor index, Tensor weight, int chunk, *, "
    "bool off_by_one=False, bool check_index=False) -> (Tensor grad_q, Tensor grad_k, Tensor grad_v, Tensor grad_weight)";
void implement_hsa(const Keys& keys);

// score (fp64 for fp64 operands, else fp32) and index int64, both [B,L,Q,top_k], in the order of torch.topk; ops/select/select.h has the
// rule. Numbers that change from call to call are SymInt, so that torch.compile need not start again for each.
inline constexpr const char* kSelectSchema =
    "select(Tensor rq, Tensor landmarks, int top_k, int chunk, *, SymInt first_position=0, SymInt first_chunk=0, "
    "SymInt exclude_window=0, SymInt noise_key=0) -> (Tensor score, Tensor index)";
inline constexpr const char* kSelectBackwardSchema =
    "select_backward(Tensor grad_score, Tensor rq, Tensor landmarks, Tensor index) -> (Tensor grad_rq, Tensor grad_landmarks)";
void implement_select(const Keys& keys);

}  // namespace cairn::pytorch
