"""The operators, as docs/algorithm.md section 1 states them. B batch, L rows, C chunks of S tokens, N selected, H query heads, G key/value
heads, Q retrieval heads, D head width. fp32; differentiable except for the choice of chunks."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-6
_WINDOW_ROWS = 512  # queries of window attention at a time: memory grows with L, not with L^2
_SELECT_ROWS, _SELECT_CHUNKS = 1024, 8192
_ATTEND_BYTES = 64 << 20
_SIGN_FLIP = 0x7FFFFFFF


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS) * weight


def head_rms_norm(x: Tensor, weight: Tensor, heads: int) -> Tensor:
    """x [...,r], weight [r]: each head's numbers by themselves."""
    return rms_norm(x.unflatten(-1, (heads, -1)), weight.view(heads, -1)).flatten(-2)


def rotary_table(first: int, length: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines [L,1,D/2] of positions first .. first + length: angles in fp64, so that they are exact far out."""
    frequency = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angle = torch.arange(first, first + length).double()[:, None] * frequency
    return angle.cos().float()[:, None], angle.sin().float()[:, None]


def rotate(x: Tensor, table: tuple[Tensor, Tensor] | None) -> Tensor:
    """x [B,L,H,D], split-half form."""
    if table is None:
        return x
    cosine, sine = (t.to(x.device) for t in table)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cosine - b * sine, a * sine + b * cosine], -1)


def attend_full(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Softmax attention, q [B,L,H,D], k and v [B,M,Hkv,D]; bias bool [L,M] (what is seen) or fp32 [H,L,M]."""
    k, v = (t.repeat_interleave(q.shape[2] // t.shape[2], 2).transpose(1, 2) for t in (k, v))
    return F.scaled_dot_product_attention(q.transpose(1, 2), k, v, attn_mask=bias).transpose(1, 2)


def window_attention(q: Tensor, k: Tensor, v: Tensor, window: int, slopes: Tensor | None) -> Tensor:
    """The last L of the M keys belong to the queries. A token sees `window` tokens, itself included. slopes [H]: ALiBi."""
    rows, history = q.shape[1], k.shape[1] - q.shape[1]
    parts = []
    for begin in range(0, rows, _WINDOW_ROWS):
        end = min(begin + _WINDOW_ROWS, rows)
        first_key = max(0, history + begin - window + 1)
        keys = slice(first_key, history + end)
        distance = torch.arange(history + begin, history + end)[:, None] - torch.arange(first_key, history + end)
        seen = ((distance >= 0) & (distance < window)).to(q.device)
        bias = seen
        if slopes is not None:
            bias = (-slopes[:, None, None] * distance.to(q.device)).masked_fill(~seen, -torch.inf)
        parts.append(attend_full(q[:, begin:end], k[:, keys], v[:, keys], bias))
    return torch.cat(parts, 1)


def visible_counts(rows: int, chunks: int, *, chunk: int, first_position: int, exclude_window: int) -> Tensor:
    """How many chunks each row sees, [L]: chunk i iff t >= (i+1) S, and with exclude_window = W > 0 iff t - W + 1 >= (i+1) S."""
    bound = torch.arange(first_position, first_position + rows) + (1 - exclude_window if exclude_window else 0)
    return (bound.clamp(min=0) // chunk).clamp(max=chunks)


def _keys(score: Tensor, first: int) -> Tensor:
    """int64 that compare like (score, chunk number), so that ties go to the more recent chunk whatever top-k does with equals."""
    bits = (score + 0.0).contiguous().view(torch.int32)
    ordered = bits ^ ((bits >> 31) & _SIGN_FLIP)
    return (ordered.long() << 32) + torch.arange(first, first + score.shape[-1], device=score.device)


@torch.no_grad()
def select(rq: Tensor, landmark_pages: list[Tensor], top_k: int, counts: Tensor) -> Tensor:
    """rq [B,L,Q,Dr], pages [B,P,Q,Dr] -> numbers of the selected chunks [B,L,Q,min(top_k, C)], nearest first, -1 where there are fewer."""
    chunks = sum(page.shape[1] for page in landmark_pages)
    n = min(top_k, chunks)
    rows = []
    for begin in range(0, rq.shape[1], _SELECT_ROWS):
        part = rq[:, begin : begin + _SELECT_ROWS] / math.sqrt(rq.shape[-1])
        count = counts[begin : begin + _SELECT_ROWS].to(rq.device)
        reach, first = int(count.max()), 0
        best = torch.empty(*part.shape[:3], 0, dtype=torch.int64, device=rq.device)
        for page in landmark_pages:
            for start in range(0, min(page.shape[1], max(reach - first, 0)), _SELECT_CHUNKS):
                block = page[:, start : start + _SELECT_CHUNKS].to(rq.device, torch.float32)
                score = torch.einsum("blqr,bcqr->blqc", part, block).clamp(min=torch.finfo(torch.float32).min)
                number = torch.arange(first + start, first + start + block.shape[1], device=rq.device)
                score = score.masked_fill(number >= count[:, None, None], -torch.inf)
                best = torch.cat([best, _keys(score, first + start)], -1)
                best = best.topk(min(n, best.shape[-1]), -1).values
            first += page.shape[1]
        index = best & 0xFFFFFFFF
        index = torch.where(index < count[:, None, None], index, -1).sort(-1, descending=True).values
        rows.append(F.pad(index, (0, n - index.shape[-1]), value=-1))
    return torch.cat(rows, 1)


def chunk_weights(score: Tensor, used: Tensor, kind: str) -> Tensor:
    """score, used [...,N], nearest first."""
    if kind == "stick_breaking":
        soft = F.softplus(score).where(used, 0.0)
        return torch.exp(score - soft.cumsum(-1)).where(used, 0.0)
    return score.masked_fill(~used, -1e30).softmax(-1).where(used, 0.0)


def spread(x: Tensor, heads: int) -> Tensor:
    """One value per retrieval head, or one for all, to every query head: [L,Q,N] -> [L,H,N]."""
    return x.repeat_interleave(heads // x.shape[1], 1)


def memory_attention(
    q: Tensor, index: Tensor, k: Tensor, v: Tensor, weigh: Callable[[slice, Tensor], Tensor], *, off_by_one: bool
) -> Tensor:
    """Eq. 2 of the paper for one text: every selected chunk has a softmax of its own.

    q [L,H,D]; index [L,Q,N] into the table k, v [U,S,G,D], -1 unused; weigh(rows, lse [l,H,N]) gives the chunk weights [l,Q or H,N]."""
    rows, heads, width = q.shape
    _, size, groups, _ = k.shape
    step = max(1, _ATTEND_BYTES // (4 * size * index.shape[2] * (2 * groups * width + heads)))
    group = torch.arange(groups, device=q.device)[:, None]
    k, v = (t.permute(2, 0, 1, 3) for t in (k, v))  # [G,U,S,D]
    parts = []
    for begin in range(0, rows, step):
        block = slice(begin, min(begin + step, rows))
        chosen = index[block].clamp(min=0).expand(-1, groups, -1)  # [l,G,N]
        q_rows = q[block].unflatten(1, (groups, -1))  # [l,G,R,D]
        s = torch.einsum("lgrd,lgnsd->lgrns", q_rows, k[group, chosen]) / math.sqrt(width)
        lse = s.logsumexp(-1)
        if off_by_one:
            lse = torch.logaddexp(lse, torch.zeros_like(lse))
        w = spread(weigh(block, lse.flatten(1, 2)), heads).view_as(lse)
        p = torch.exp(s - lse[..., None]) * w[..., None]
        parts.append(torch.einsum("lgrns,lgnsd->lgrd", p, v[group, chosen]).flatten(1, 2))
    return torch.cat(parts)


def hsa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    index: Tensor,
    weight: Tensor,
    chunk: int,
    *,
    off_by_one: bool = False,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """What cairn.ops.hsa computes, in a few operations that gather the chunks of every slot: o [B,L,H,D] in q's dtype and the
    log-sum-exps [B,L,H,N]. Differentiable as often as wanted, memory O(B L G N S D). `dtype` is that of all operations (default: fp32,
    fp64 for fp64 operands)."""
    work = dtype or (torch.float64 if q.dtype == torch.float64 else torch.float32)
    batch, rows, heads, width = q.shape
    groups, slots, chunks = k.shape[2], index.shape[3], k.shape[1] // chunk
    if chunks == 0 or slots == 0:
        return torch.zeros_like(q) + 0 * q, torch.zeros(batch, rows, heads, slots, dtype=work, device=q.device)
    used = (index >= 0).expand(-1, -1, groups, -1).unsqueeze(-1)  # [B,L,G,N,1]
    chosen = index.clamp(min=0).expand(-1, -1, groups, -1)
    text = torch.arange(batch, device=q.device)[:, None, None, None]
    group = torch.arange(groups, device=q.device)[:, None]
    table = (x[:, : chunks * chunk].to(work).unflatten(1, (chunks, chunk)).transpose(2, 3) for x in (k, v))  # [B,C,G,S,D]
    keys, values = (x[text, chosen, group] for x in table)  # [B,L,G,N,S,D]
    s = torch.einsum("blgrd,blgnsd->blgnrs", q.to(work).unflatten(2, (groups, -1)), keys) / math.sqrt(width)
    lse = s.logsumexp(-1)  # [B,L,G,N,R]
    if off_by_one:
        lse = torch.logaddexp(lse, torch.zeros_like(lse))
    w = weight.to(work).repeat_interleave(heads // weight.shape[2], 2).unflatten(2, (groups, -1)).transpose(3, 4)
    p = torch.exp(s - lse[..., None]) * w.where(used, 0.0)[..., None]
    o = torch.einsum("blgnrs,blgnsd->blgrd", p, values).flatten(2, 3)
    return o.to(q.dtype), lse.where(used, 0.0).transpose(3, 4).flatten(2, 3)


def select_dense(
    rq: Tensor,
    landmarks: Tensor,
    top_k: int,
    chunk: int,
    *,
    first_position: int = 0,
    first_chunk: int = 0,
    exclude_window: int = 0,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """What cairn.ops.select computes, without noise, from the scores of all pairs: memory O(B L Q C). -> score, index [B,L,Q,top_k].
    `dtype` is that of all operations (default: fp32, fp64 for fp64 operands)."""
    work = dtype or (torch.float64 if rq.dtype == torch.float64 else torch.float32)
    chunks = landmarks.shape[1]
    score = torch.einsum("blqr,bcqr->blqc", rq.to(work) / math.sqrt(rq.shape[-1]), landmarks.to(work))
    bound = torch.arange(rq.shape[1], device=rq.device) + first_position + (1 - exclude_window if exclude_window else 0)
    seen = (bound.clamp(min=0) // chunk - first_chunk)[:, None, None] > torch.arange(chunks, device=rq.device)
    # Ties go to the more recent chunk: newest first and a stable sort.
    newest_first = score.detach().masked_fill(~seen, -torch.inf).flip(-1)
    order = chunks - 1 - newest_first.sort(dim=-1, descending=True, stable=True).indices[..., :top_k]
    index = torch.where(seen.expand_as(score).gather(-1, order), order, -1).sort(-1, descending=True).values
    score = score.gather(-1, index.clamp(min=0)).where(index >= 0, 0.0) if chunks else score
    missing = (0, top_k - index.shape[-1])
    return F.pad(score, missing), F.pad(index, missing, value=-1)
