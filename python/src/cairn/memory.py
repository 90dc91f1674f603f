"""What reading a text leaves behind: the memory of its complete chunks and the state of its end (docs/algorithm.md, section 4)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

_JOINED = 64  # chunks: appended pages smaller than this are joined, so that decoding token by token makes no long list


@dataclass
class Page:
    """Landmarks [B,P,Q,Dr], keys and values [B,P,S,G,D] of P chunks in a row; fp32, or bf16 from a file. Never written to."""

    landmarks: Tensor
    k: Tensor
    v: Tensor

    @property
    def chunks(self) -> int:
        return self.landmarks.shape[1]


@dataclass
class Cache:
    """Keys (rotated) and values of the last W-1 tokens of one window attention, [B,<=W-1,Hkv,D]."""

    k: Tensor
    v: Tensor


@dataclass
class Memory:
    """Model.read() and MemoryFile.state() make it; Model.advance() moves it on. Tensors are replaced, never changed: fork() is cheap."""

    batch: int
    tokens: int = 0  # read so far: the position of the next token
    pages: list[Page] = field(default_factory=list)
    lower: list[Cache | None] = field(default_factory=list)  # one a layer
    partial: Tensor | None = None  # [B,p,d] midpoint states of the incomplete chunk
    tail: Tensor | None = None  # [B,n,d] midpoint states of the last upper_reach tokens
    upper: list[Cache | None] | None = None  # one a window attention of the upper half; None until the first advance() and after read()
    queries: list[Tensor | None] = field(default_factory=list)  # retrieval_stride "chunk": one a retrieval; goes with `upper`

    @property
    def chunks(self) -> int:
        return sum(page.chunks for page in self.pages)

    def fork(self) -> Memory:
        """A memory that goes on by itself while this one stays."""
        upper = None if self.upper is None else list(self.upper)
        return replace(self, pages=list(self.pages), lower=list(self.lower), upper=upper, queries=list(self.queries))

    def append(self, page: Page) -> None:
        if self.pages and self.pages[-1].chunks + page.chunks <= _JOINED and self.pages[-1].k.dtype == page.k.dtype:
            last = self.pages.pop()
            page = Page(*(torch.cat(pair, 1) for pair in ((last.landmarks, page.landmarks), (last.k, page.k), (last.v, page.v))))
        self.pages.append(page)


def take(pages: list[Page], row: int, numbers: Tensor, name: str) -> Tensor:
    """Landmarks, k or v of the chunks with these ascending numbers in one row of the batch, fp32 [U,...]."""
    parts, begin = [], 0
    for page in pages:
        here = numbers[(numbers >= begin) & (numbers < begin + page.chunks)] - begin
        if len(here):
            table = getattr(page, name)[row]
            parts.append(table.index_select(0, here.to(table.device)).to(numbers.device, torch.float32))
        begin += page.chunks
    return torch.cat(parts)
