"""The compiled operators for PyTorch: memory attention and landmark selection (docs/algorithm.md, section 1), on CPU and GPU, with
gradients, under torch.compile (also fullgraph=True), torch.autocast and torch.export. Importing this module loads libcairn_torch.so;
without it an ImportError says how to get it. cairn.plain has the same in plain PyTorch.

B texts, L rows (tokens), H query heads, G key/value heads, D their width, S tokens a chunk, C chunks, N selected, Q retrieval heads
(1 or G) of width Dr. Wrong shapes, sizes, devices and values are a ValueError, wrong dtypes a TypeError; each names operator, argument
and what is expected. (Inside torch.compile they arrive wrapped in its own exception.)"""

from __future__ import annotations

from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor

from cairn import plain
from cairn._library import load

BUILD = load()
"""Versions that the library was built with: "cairn", "torch" and "cuda" ("none": without kernels for GPUs; torch's own are used there)."""


class Selection(NamedTuple):
    """Both [B,L,Q,top_k], as torch.topk returns them."""

    scores: Tensor
    """Scores of the selected chunks, differentiable; 0 in unused slots. fp32 (fp64 for fp64 operands)."""
    indices: Tensor
    """int64 numbers of the selected landmarks, highest (nearest) first; -1 in unused slots, which come last."""


@overload
def hsa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    index: Tensor,
    weight: Tensor,
    chunk: int,
    *,
    off_by_one: bool = ...,
    return_lse: Literal[False] = ...,
    check_index: bool = ...,
) -> Tensor: ...


@overload
def hsa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    index: Tensor,
    weight: Tensor,
    chunk: int,
    *,
    off_by_one: bool = ...,
    return_lse: Literal[True],
    check_index: bool = ...,
) -> tuple[Tensor, Tensor]: ...


def hsa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    index: Tensor,
    weight: Tensor,
    chunk: int,
    *,
    off_by_one: bool = False,
    return_lse: bool = False,
    check_index: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Memory attention (hierarchical sparse attention, arXiv 2510.17196, Eq. 2): every selected chunk has a softmax of its own.

        o[b,t,h] = sum_n weight[b,t,h,n] * softmax_j(q[b,t,h] . k[b,i_n S + j,g] / sqrt(D)) @ v[b,i_n S + j,g],   i_n = index[b,t,g,n]

    q       [B,L,H,D], float32, bfloat16 or float64 (float64 slowly, for tests)
    k, v    [B,M,G,D] in q's dtype, G a divisor of H. Chunk i is tokens i S .. (i+1) S - 1; tokens behind the last whole chunk are left out
    index   [B,L,1 or G,N] int64: numbers of chunks, none twice in a row; -1 in unused slots
    weight  [B,L,1, G or H,N], float32 or q's dtype; what stands in unused slots does not count
    chunk   S, tokens a chunk
    off_by_one   a further 1 in the denominator of each softmax
    return_lse   also the log-sum-exps [B,L,H,N], the logarithm of each softmax's denominator: float32 (float64), 0 in unused slots
    check_index  ValueError for an index outside [-1, C) or twice in a row; on a GPU this waits for it. Without the check an index out of
                 range is still an error on a CPU, and an unused slot on a GPU; with two equal ones results on a GPU are unspecified

    Returns o [B,L,H,D] in q's dtype, exactly 0 for rows without a chunk. Differentiable once in q, k, v and weight, and through the
    log-sum-exps. Any strides; L, B, N and C may be 0. The fast kernels for GPUs: bfloat16, D 32, 64, 96 or 128, compute capability 9.0."""
    o, lse = torch.ops.cairn.hsa(q, k, v, index, weight, chunk, off_by_one=off_by_one, return_lse=return_lse, check_index=check_index)
    return (o, lse) if return_lse else o


def select(
    rq: Tensor,
    landmarks: Tensor,
    top_k: int,
    chunk: int,
    *,
    first_position: int = 0,
    first_chunk: int = 0,
    exclude_window: int = 0,
    noise_key: int = 0,
) -> Selection:
    """Landmark selection: for every row the top_k visible chunks with the highest score rq . landmark / sqrt(Dr). Ties go to the higher
    number. A row at position t sees chunk i iff t >= (i+1) S, and with exclude_window = W > 0 iff t - W + 1 >= (i+1) S.

    rq, landmarks   [B,L,Q,Dr], [B,C,Q,Dr]: float32 or bfloat16, each for itself, or both float64. Scores are fp32 sums
    top_k           slots; where fewer chunks are visible the last ones are unused
    chunk           S, tokens a chunk
    first_position  position of row 0 (rows stand one behind the other); first_chunk: number of landmark 0
    noise_key       not 0: Gumbel noise, a function of this key, text, position, head and chunk, is added for the choice alone. Then, and
                    for float64, all scores [B,L,Q,C] are held at once; otherwise memory is O(L top_k)

    Returns (scores, indices). The choice has no gradient; the scores have, in rq and landmarks."""
    score, index = torch.ops.cairn.select(
        rq,
        landmarks,
        top_k,
        chunk,
        first_position=first_position,
        first_chunk=first_chunk,
        exclude_window=exclude_window,
        noise_key=noise_key,
    )
    return Selection(score, index)


def chunk_weights(selection: Selection, kind: Literal["softmax", "stick_breaking"] = "softmax") -> Tensor:
    """Weights [B,L,Q,N] for hsa() from selected scores: softmax over the used slots, or stick-breaking, nearest first:
    w_k = sigma(s_k) prod_{j<k} (1 - sigma(s_j)). 0 in unused slots. Plain PyTorch, differentiable."""
    if kind not in ("softmax", "stick_breaking"):
        raise ValueError(f"cairn.ops.chunk_weights: argument kind is {kind!r}; expected 'softmax' or 'stick_breaking'")
    return plain.chunk_weights(selection.scores, selection.indices >= 0, kind)


def has_cuda_kernels() -> bool:
    """Whether the library holds kernels for GPUs. Without them operators on a GPU run on torch's own."""
    return bool(torch.ops.cairn.has_cuda_kernels())
