"""Memory attention as a layer for models of your own, on the compiled operators of cairn.ops."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from cairn import ops
from cairn.plain import head_rms_norm, rms_norm


class ChunkMemory(NamedTuple):
    """What rows attend to: C chunks of S tokens. Layers may share one."""

    landmarks: Tensor
    """[B,C,Q,Dr]"""
    keys: Tensor
    """[B,C*S,G,D], without positions"""
    values: Tensor
    """[B,C*S,G,D]"""


class MemoryAttention(nn.Module):
    """Causal attention to whole chunks of the text: each row retrieves the `top_k` chunks behind it whose landmarks fit best, attends to
    each with a softmax of its own, and mixes the results by the retrieval's scores, through which retrieval learns. Cost grows with
    L top_k S, and with L C for the scores alone. Rows do not see their own chunk: put window attention of at least S tokens beside it.

    x [B,L,d_model] (normed; there is no residual inside) -> [B,L,d_model]; float32, or bfloat16 for speed on a GPU.

    heads, kv_heads     query heads H and key/value heads G (a divisor of H), each of head_dim numbers
    chunk, top_k        tokens a chunk S; chunks a row N
    retrieval_heads     1, or kv_heads: each key/value head selects for itself
    retrieval_dim       width of landmarks and retrieval queries of all those heads together (default: head_dim * retrieval_heads)
    weights             of the selected chunks: "softmax" or "stick_breaking" (nearest first)
    off_by_one          a further 1 in every chunk's softmax: a row may take nothing
    """

    def __init__(
        self,
        d_model: int,
        *,
        heads: int = 8,
        kv_heads: int = 1,
        head_dim: int = 64,
        chunk: int = 64,
        top_k: int = 8,
        retrieval_heads: int = 1,
        retrieval_dim: int | None = None,
        weights: Literal["softmax", "stick_breaking"] = "softmax",
        off_by_one: bool = False,
    ) -> None:
        super().__init__()
        retrieval_dim = head_dim * retrieval_heads if retrieval_dim is None else retrieval_dim
        if min(d_model, heads, kv_heads, head_dim, chunk, top_k, retrieval_heads, retrieval_dim) < 1:
            raise ValueError("MemoryAttention: all sizes must be at least 1")
        if heads % kv_heads:
            raise ValueError(f"MemoryAttention: kv_heads is {kv_heads}; expected a divisor of heads, {heads}")
        if retrieval_heads not in (1, kv_heads):
            raise ValueError(f"MemoryAttention: retrieval_heads is {retrieval_heads}; expected 1 or kv_heads, {kv_heads}")
        if retrieval_dim % retrieval_heads:
            raise ValueError(
                f"MemoryAttention: retrieval_dim is {retrieval_dim}; expected a multiple of retrieval_heads, {retrieval_heads}"
            )
        if weights not in ("softmax", "stick_breaking"):
            raise ValueError(f"MemoryAttention: weights is {weights!r}; expected 'softmax' or 'stick_breaking'")
        self.d_model, self.heads, self.kv_heads, self.head_dim = d_model, heads, kv_heads, head_dim
        self.chunk, self.top_k, self.retrieval_heads = chunk, top_k, retrieval_heads
        self.weights: Literal["softmax", "stick_breaking"] = weights
        self.off_by_one = off_by_one
        self.q_proj = nn.Linear(d_model, heads * head_dim, bias=False)
        self.k_proj = nn.Linear(d_model, kv_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(d_model, kv_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(heads * head_dim, d_model, bias=False)
        self.retrieval_proj = nn.Linear(d_model, retrieval_dim, bias=False)
        self.landmark_proj = nn.Linear(d_model, retrieval_dim, bias=False)
        # Norms per head; without those of retrieval its scores run away in training.
        self.q_norm, self.k_norm = nn.Parameter(torch.ones(head_dim)), nn.Parameter(torch.ones(head_dim))
        self.retrieval_norm, self.landmark_norm = nn.Parameter(torch.ones(retrieval_dim)), nn.Parameter(torch.ones(retrieval_dim))

    def memory(self, x: Tensor) -> ChunkMemory:
        """The whole chunks of x [B,L,d_model]; a landmark is made of the mean of its chunk."""
        self._check(x)
        chunks = x.shape[1] // self.chunk
        body = x[:, : chunks * self.chunk]
        mean = body.unflatten(1, (chunks, self.chunk)).mean(2)
        landmarks = head_rms_norm(self.landmark_proj(mean), self.landmark_norm, self.retrieval_heads)
        keys = rms_norm(self.k_proj(body).unflatten(-1, (self.kv_heads, self.head_dim)), self.k_norm)
        values = self.v_proj(body).unflatten(-1, (self.kv_heads, self.head_dim))
        return ChunkMemory(landmarks.unflatten(-1, (self.retrieval_heads, -1)), keys, values.to(keys.dtype))

    def forward(self, x: Tensor, memory: ChunkMemory | None = None, *, first_position: int = 0, noise_key: int = 0) -> Tensor:
        """memory: of x itself unless given. first_position: where row 0 of x stands in the text whose memory it is. noise_key: not 0 adds
        Gumbel noise to the choice, to explore in training; take another number every step."""
        self._check(x)
        memory = self.memory(x) if memory is None else memory
        rq = head_rms_norm(self.retrieval_proj(x), self.retrieval_norm, self.retrieval_heads).unflatten(-1, (self.retrieval_heads, -1))
        found = ops.select(rq, memory.landmarks, self.top_k, self.chunk, first_position=first_position, noise_key=noise_key)
        weight = ops.chunk_weights(found, self.weights)
        q = rms_norm(self.q_proj(x).unflatten(-1, (self.heads, self.head_dim)), self.q_norm)
        o = ops.hsa(q, memory.keys, memory.values, found.indices, weight, self.chunk, off_by_one=self.off_by_one)
        return self.o_proj(o.flatten(2))

    def _check(self, x: Tensor) -> None:
        if x.dim() != 3 or x.shape[2] != self.d_model:
            raise ValueError(f"MemoryAttention: x has shape {list(x.shape)}; expected [B, L, {self.d_model}]")

    def extra_repr(self) -> str:
        return (
            f"d_model={self.d_model}, heads={self.heads}, kv_heads={self.kv_heads}, head_dim={self.head_dim}, chunk={self.chunk}, "
            f"top_k={self.top_k}, retrieval_heads={self.retrieval_heads}, weights={self.weights!r}, off_by_one={self.off_by_one}"
        )
