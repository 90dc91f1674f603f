"""The network of docs/algorithm.md in plain PyTorch, fp32. Modules and parameters have the names of the checkpoint.

forward() takes a whole text in one pass. read() runs the lower half over a text and keeps the memory; advance() gives the exact logits
of the tokens behind it. src/cairn/model/ and src/cairn/infer/reader.cpp are the same in C++."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cairn import plain
from cairn.checkpoint import hash_file, hash_hex, read_weights
from cairn.config import ModelConfig, UpperLayer
from cairn.memory import Cache, Memory, Page, take

Table = tuple[Tensor, Tensor] | None
_ROWS = 256


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return plain.rms_norm(x, self.weight)


M = TypeVar("M", bound=nn.Module)


def _all(modules: nn.ModuleList, kind: type[M]) -> list[M]:
    """The modules of a list, with their type."""
    return cast("list[M]", list(modules))


def _linear(inputs: int, outputs: int, bias: bool = False) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=bias)


class Attention(nn.Module):
    """o_proj(attention(norm(x))) of window layers and, with biases, of the chunk encoder."""

    def __init__(self, c: ModelConfig, bias: bool = False) -> None:
        super().__init__()
        self.width, self.window, self.alibi = c.head_dim, c.window, c.positions == "alibi"
        self.norm = RMSNorm(c.d_model)
        self.q_proj = _linear(c.d_model, c.heads * c.head_dim, bias)
        self.k_proj = _linear(c.d_model, c.kv_heads * c.head_dim, bias)
        self.v_proj = _linear(c.d_model, c.kv_heads * c.head_dim, bias)
        self.q_norm, self.k_norm = RMSNorm(c.head_dim), RMSNorm(c.head_dim)
        self.o_proj = _linear(c.heads * c.head_dim, c.d_model)

    def project(self, x: Tensor, table: Table) -> tuple[Tensor, Tensor, Tensor]:
        h = self.norm(x)
        q, k, v = (p(h).unflatten(-1, (-1, self.width)) for p in (self.q_proj, self.k_proj, self.v_proj))
        return plain.rotate(self.q_norm(q), table), plain.rotate(self.k_norm(k), table), v

    def bidirectional(self, x: Tensor, table: Table) -> Tensor:
        return self.o_proj(plain.attend_full(*self.project(x, table)).flatten(2))

    def forward(self, x: Tensor, table: Table, cache: Cache | None = None) -> tuple[Tensor, Cache]:
        q, k, v = self.project(x, table)
        if cache is not None:
            k, v = torch.cat([cache.k, k], 1), torch.cat([cache.v, v], 1)
        slopes = None
        if self.alibi:
            slopes = 2.0 ** (torch.arange(1, q.shape[2] + 1, device=x.device) * (-8.0 / q.shape[2]))
        keep = max(0, k.shape[1] - (self.window - 1))
        u = self.o_proj(plain.window_attention(q, k, v, self.window, slopes).flatten(2))
        return u, Cache(k[:, keep:].clone(), v[:, keep:].clone())


class MLP(nn.Module):
    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(c.d_model)
        self.gate_proj, self.up_proj = _linear(c.d_model, c.mlp), _linear(c.d_model, c.mlp)
        self.down_proj = _linear(c.mlp, c.d_model)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        return self.down_proj(F.silu(self.gate_proj(h)) * self.up_proj(h))


class Layer(nn.Module):
    """A window layer, or a layer of the chunk encoder."""

    def __init__(self, c: ModelConfig, bias: bool = False) -> None:
        super().__init__()
        self.attention, self.mlp = Attention(c, bias), MLP(c)


class ChunkEncoder(nn.Module):
    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        self.config = c
        if c.pre_norm:
            self.pre_norm = RMSNorm(c.d_model)
        if c.landmark == "cls":
            self.cls = nn.Parameter(torch.zeros(c.d_model))
        self.encoder = nn.ModuleList(Layer(c, bias=True) for _ in range(c.encoder_layers))
        self.norm = RMSNorm(c.d_model)
        self.landmark_proj = _linear(c.d_model, c.retrieval_dim)
        if c.landmark_norm:
            self.landmark_norm = RMSNorm(c.retrieval_dim)
        self.k_proj = _linear(c.d_model, c.memory_kv_heads * c.head_dim)
        self.k_norm = RMSNorm(c.head_dim)
        self.v_proj = _linear(c.d_model, c.memory_kv_heads * c.head_dim)

    def forward(self, x: Tensor) -> Page:
        """Midpoint states [B,C*S,d] of complete chunks."""
        c, batch, chunks = self.config, x.shape[0], x.shape[1] // self.config.chunk
        e = x.reshape(batch * chunks, c.chunk, c.d_model)
        if c.pre_norm:
            e = self.pre_norm(e)
        if c.landmark == "cls":
            e = torch.cat([e, self.cls.expand(batch * chunks, 1, -1)], 1)
        table = plain.rotary_table(0, e.shape[1], c.head_dim, c.rope_theta)  # positions inside the chunk, whatever `positions` says
        for layer in _all(self.encoder, Layer):
            e = e + layer.attention.bidirectional(e, table)
            e = e + layer.mlp(e)
        e = self.norm(e)
        body = e[:, : c.chunk]
        landmarks = self.landmark_proj(e[:, c.chunk] if c.landmark == "cls" else body.mean(1))
        if c.landmark_norm:
            landmarks = plain.head_rms_norm(landmarks, self.landmark_norm.weight, c.retrieval_heads)
        shape = (batch, chunks, c.chunk, c.memory_kv_heads, c.head_dim)
        k, v = self.k_norm(self.k_proj(body).view(shape)), self.v_proj(body).view(shape)
        return Page(landmarks.view(batch, chunks, c.retrieval_heads, -1), k, v)


class UpperBlock(nn.Module):
    """Parameters of one layer above the midpoint; Model.upper() runs it."""

    def __init__(self, c: ModelConfig, layer: UpperLayer) -> None:
        super().__init__()
        self.layer = layer
        if layer.window:
            self.attention = Attention(c)
        if layer.mlp:
            self.mlp = MLP(c)
        if not layer.memory:
            return
        self.norm = RMSNorm(c.d_model)
        self.q_proj = _linear(c.d_model, c.memory_heads * c.head_dim)
        self.q_norm = RMSNorm(c.head_dim)
        self.o_proj = _linear(c.memory_heads * c.head_dim, c.d_model)
        if layer.retrieval:
            self.retrieval_proj = _linear(c.d_model, c.retrieval_dim)
            if c.landmark_norm:
                self.retrieval_norm = RMSNorm(c.retrieval_dim)
        if c.rank_decay:
            self.rank_decay = nn.Parameter(torch.zeros(1))


Found = tuple[Tensor, Tensor]  # numbers of the selected chunks [B,L,Q,N] (-1 unused) and their scores (0 there)


class Model(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.fingerprint: str | None = None  # load_model() sets it; None without the package xxhash
        self.embed = nn.Embedding(config.vocab, config.d_model)
        self.lower = nn.ModuleList(Layer(config) for _ in range(config.lower_layers))
        self.chunk = ChunkEncoder(config)
        self.upper = nn.ModuleList(UpperBlock(config, layer) for layer in config.upper_layers())
        self.norm = RMSNorm(config.d_model)

    def forward(self, tokens: Tensor, use_memory: bool = True) -> Tensor:
        """Token ids [B,L] from position 0 -> logits [B,L,vocab]. Without memory: the window-only floor."""
        x, _ = self._run_lower(self._embed(tokens), 0, [])
        complete = x.shape[1] // self.config.chunk * self.config.chunk
        pages = [self.chunk(x[:, :complete])] if complete and use_memory else []
        hidden, _, _ = self._run_upper(x, 0, pages, None, [], [])
        return self._logits(hidden)

    @torch.no_grad()
    def read(self, tokens: Tensor, memory: Memory | None = None, segment: int = 4096) -> Memory:
        """Takes tokens [B,n] in, lower half only. A given memory is moved on, and returned."""
        memory = memory or Memory(batch=tokens.shape[0])
        for begin in range(0, tokens.shape[1], segment):
            self._take_in(memory, tokens[:, begin : begin + segment])
        memory.upper, memory.queries = None, []
        return memory

    @torch.no_grad()
    def advance(self, memory: Memory, tokens: Tensor, selected: list[Tensor] | None = None) -> Tensor:
        """Takes tokens [B,n] in and gives their logits [B,n,vocab]: those of forward() over the whole text. Moves the memory on;
        advance(memory.fork(), ...) leaves it as it is.

        To `selected`, if given, it appends one tensor a retrieval: the numbers of the chunks that the new tokens selected, [B,n,Q,N],
        nearest first, -1 where there were fewer."""
        if tokens.shape[1] == 0:
            return torch.empty(memory.batch, 0, self.config.vocab)
        before = memory.tail
        x = self._take_in(memory, tokens)
        # The first time the upper half must also see the tail before the new tokens; then its caches hold what it needs.
        if memory.upper is None and before is not None:
            x = torch.cat([before, x], 1)
        first = memory.tokens - x.shape[1]
        found: list[Tensor] = []
        hidden, memory.upper, memory.queries = self._run_upper(x, first, memory.pages, memory.upper, memory.queries, found)
        if selected is not None:
            selected += [index[:, -tokens.shape[1] :] for index in found]
        return self._logits(hidden[:, -tokens.shape[1] :])

    def generate(self, memory: Memory, prompt: Tensor, count: int) -> Tensor:
        """The most likely token again and again: [B,count] behind the prompt [B,m], m >= 1."""
        made, tokens = [], prompt
        for _ in range(count):
            tokens = self.advance(memory, tokens)[:, -1:].argmax(-1)
            made.append(tokens)
        return torch.cat(made, 1)

    # The halves.

    def _embed(self, tokens: Tensor) -> Tensor:
        if tokens.dim() != 2 or tokens.dtype != torch.int64:
            raise ValueError(f"tokens must be int64 [B,L], not {tokens.dtype} {list(tokens.shape)}")
        return self.embed(tokens)

    def _logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.embed.weight)

    def _table(self, first: int, length: int) -> Table:
        return plain.rotary_table(first, length, self.config.head_dim, self.config.rope_theta) if self.config.positions == "rope" else None

    def _run_lower(self, x: Tensor, first: int, caches: list[Cache | None]) -> tuple[Tensor, list[Cache | None]]:
        table, kept = self._table(first, x.shape[1]), []
        for i, layer in enumerate(_all(self.lower, Layer)):
            u, cache = layer.attention(x, table, caches[i] if caches else None)
            x = x + u
            x = x + layer.mlp(x)
            kept.append(cache)
        return x, kept

    def _take_in(self, memory: Memory, tokens: Tensor) -> Tensor:
        """Lower half and chunk encoder over new tokens; returns their midpoint states [B,n,d]."""
        c = self.config
        if tokens.shape[0] != memory.batch:
            raise ValueError(f"tokens of {tokens.shape[0]} rows, a memory of {memory.batch}")
        x, memory.lower = self._run_lower(self._embed(tokens), memory.tokens, memory.lower)
        pending = x if memory.partial is None else torch.cat([memory.partial, x], 1)
        complete = pending.shape[1] // c.chunk * c.chunk
        if complete:
            memory.append(self.chunk(pending[:, :complete]))
        memory.partial = pending[:, complete:].clone()
        tail = x if memory.tail is None else torch.cat([memory.tail, x], 1)
        memory.tail = tail[:, max(0, tail.shape[1] - c.upper_reach) :].clone()
        memory.tokens += tokens.shape[1]
        return x

    def _run_upper(
        self,
        x: Tensor,
        first: int,
        pages: list[Page],
        caches: list[Cache | None] | None,
        queries: list[Tensor | None],
        selected: list[Tensor],
    ) -> tuple[Tensor, list[Cache | None], list[Tensor | None]]:
        """x [B,L,d] at positions first .. -> hidden after the final norm, and the caches for the tokens behind. Appends to `selected`."""
        table = self._table(first, x.shape[1])
        kept: list[Cache | None] = []
        kept_queries: list[Tensor | None] = []
        found: Found | None = None
        for block in _all(self.upper, UpperBlock):
            if block.layer.window:
                u, cache = block.attention(x, table, caches[len(kept)] if caches else None)
                x = x + u
                kept.append(cache)
            if not block.layer.memory:
                x = x + block.mlp(x)
                continue
            h = block.norm(x)
            if block.layer.retrieval:
                query = queries[len(kept_queries)] if queries else None
                found, query = self._retrieve(block, h, first, pages, query)
                kept_queries.append(query)
                selected.append(found[0])
            assert found is not None  # ModelConfig has checked that the first memory layer retrieves
            u = block.o_proj(self._attend(block, h, pages, found).flatten(2))
            # Eq. 6: the memory's output is always seen by the MLP; beta says how much of it stays in the residual stream.
            x = x + self.config.beta * u + block.mlp(x + u) if block.layer.mlp else x + u
        return self.norm(x), kept, kept_queries

    def _retrieve(self, block: UpperBlock, h: Tensor, first: int, pages: list[Page], query: Tensor | None) -> tuple[Found, Tensor | None]:
        c = self.config
        rq = block.retrieval_proj(h)
        if c.landmark_norm:
            rq = plain.head_rms_norm(rq, block.retrieval_norm.weight, c.retrieval_heads)
        rq = rq.unflatten(-1, (c.retrieval_heads, -1))
        exclude = c.window if c.exclude_window else 0
        if c.retrieval_stride == "token":
            return self._search(rq, pages, chunk=c.chunk, first_position=first, exclude_window=exclude), None
        # Every row of chunk i uses the query of the last token of chunk i-1. In units of chunks that row stands at i-1, so with chunk = 1
        # the same rule says what it sees.
        size, end = c.chunk, first + rq.shape[1]
        inside = rq[:, size - 1 - first % size :: size]
        before = torch.zeros_like(rq[:, :1]) if query is None else query
        rows = torch.cat([before, inside], 1)
        kept = rows[:, -1:].clone() if inside.shape[1] or query is not None else None
        rows = rows[:, : (end - 1) // size - first // size + 1]
        index, score = self._search(rows, pages, chunk=1, first_position=first // size - 1, exclude_window=-(-exclude // size))
        row_of = torch.arange(first, end, device=rq.device) // size - first // size
        return (index[:, row_of], score[:, row_of]), kept

    def _search(self, rq: Tensor, pages: list[Page], *, chunk: int, first_position: int, exclude_window: int) -> Found:
        total = sum(page.chunks for page in pages)
        counts = plain.visible_counts(rq.shape[1], total, chunk=chunk, first_position=first_position, exclude_window=exclude_window)
        index = plain.select(rq.detach(), [page.landmarks.detach() for page in pages], self.config.top_k, counts)
        # Once more for the selected ones alone, with gradients.
        rows = []
        for row, part in _blocks(rq):
            numbers, local = _renumber(index[row, part])
            if not len(numbers):
                rows.append(torch.zeros(local.shape, device=rq.device))
                continue
            every = torch.einsum("lqr,cqr->lqc", rq[row, part], take(pages, row, numbers, "landmarks")) / math.sqrt(rq.shape[-1])
            rows.append(every.gather(-1, local.clamp(min=0)).where(local >= 0, 0.0))
        return index, torch.cat(rows).view(index.shape)

    def _attend(self, block: UpperBlock, h: Tensor, pages: list[Page], found: Found) -> Tensor:
        """The memory attention's output [B,L,H,D]; exactly 0 for rows that see no chunk."""
        c = self.config
        q = block.q_norm(block.q_proj(h).unflatten(-1, (c.memory_heads, -1)))
        rows = []
        for row, part in _blocks(q):
            numbers, local = _renumber(found[0][row, part])
            if not len(numbers):
                rows.append(torch.zeros_like(q[row, part]))
                continue
            used, score = local >= 0, found[1][row, part]
            if c.rank_decay:
                score = score + block.rank_decay * torch.arange(score.shape[-1], device=h.device)

            def weigh(rows: slice, lse: Tensor, used: Tensor = used, score: Tensor = score) -> Tensor:
                if c.alpha == 0:
                    return plain.chunk_weights(score[rows], used[rows], c.weights)
                mixed = c.alpha * lse + (1 - c.alpha) * plain.spread(score[rows], c.memory_heads)
                return plain.chunk_weights(mixed, plain.spread(used[rows], c.memory_heads), "softmax")

            k, v = (take(pages, row, numbers, name) for name in ("k", "v"))
            rows.append(plain.memory_attention(q[row, part], local, k, v, weigh, off_by_one=c.off_by_one))
        return torch.cat(rows).view(q.shape)


def _blocks(x: Tensor) -> Iterator[tuple[int, slice]]:
    """x [B,L,...] in pieces of some tokens of one text: what they select together fits into memory."""
    for row in range(x.shape[0]):
        for begin in range(0, x.shape[1], _ROWS):
            yield row, slice(begin, begin + _ROWS)


def _renumber(index: Tensor) -> tuple[Tensor, Tensor]:
    """The different chunk numbers in `index`, ascending, and `index` renumbered into them (-1 stays)."""
    numbers = index[index >= 0].unique()
    local = torch.searchsorted(numbers, index.clamp(min=0).contiguous()) if len(numbers) else index
    return numbers, local.where(index >= 0, -1)


def load_model(folder: str | os.PathLike[str]) -> Model:
    """A folder with model.safetensors and config.json, such as RUN/model of `cairn train`. ValueError names the file and what is wrong."""
    folder = Path(folder)
    config_file, weights_file = folder / "config.json", folder / "model.safetensors"
    for file in (config_file, weights_file):
        if not file.is_file():
            raise ValueError(f"{folder}: has no {file.name}; a model is a folder with model.safetensors and config.json")
    config = ModelConfig.from_json(config_file.read_bytes().decode("utf-8", "replace"), str(config_file))
    weights = read_weights(weights_file)
    with torch.device("meta"):
        model = Model(config)
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    for name, tensor in weights.items():
        if name not in wanted:
            raise ValueError(f"{weights_file}: tensor '{name}' does not belong to this configuration")
        if not tensor.is_floating_point():
            raise ValueError(f"{weights_file}: tensor '{name}' is of type {tensor.dtype}; weights must be F64, F32, F16 or BF16")
        if tensor.shape != wanted[name]:
            raise ValueError(
                f"{weights_file}: tensor '{name}' has shape {list(tensor.shape)}, the configuration needs {list(wanted[name])}"
            )
    for name in wanted:
        if name not in weights:
            raise ValueError(f"{weights_file}: tensor '{name}' is missing; the file is of another configuration")
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, assign=True)
    # As load_model() of src/cairn/model/load.cpp takes it.
    weights_hash = hash_file(weights_file)
    model.fingerprint = None if weights_hash is None else hash_hex((config.to_json() + weights_hash).encode())
    return model
