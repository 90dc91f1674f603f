"""Memory files: what the program has read of one or more documents, ready to be asked (docs/formats.md)."""

from __future__ import annotations

import math
import os
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cairn.config import ModelConfig
from cairn.extent_file import ExtentFile
from cairn.memory import Cache, Memory, Page
from cairn.model import Model

_ELEMENT = {"fp32": 4, "bf16": 2}


@dataclass(frozen=True)
class Document:
    """Tokens begin .. end of the text; the tokens of the blank line behind a document belong to it."""

    name: str
    begin: int
    end: int


@dataclass(frozen=True)
class _Page:
    chunks: int
    first: int  # chunk of the extents that is the page's first
    extents: dict[str, int]


class MemoryFile(ExtentFile):
    """One memory file, open for reading: what was read, by which model, and the state to ask it.

    Attributes: tokens, chunks, documents, config, fingerprint, tokenizer, compute ("fp32" or "bf16": what chunks are stored in),
    reading (a reading is in progress)."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        try:
            self._read_root()
        except BaseException:
            self.close()
            raise

    def _read_root(self) -> None:
        root = self.root
        self._require(root.get("format") == "cairn.memory", "is not a memory file")
        self._require(root.get("version") == 1, f"has version {root.get('version')!r}; this program reads version 1")
        model = self._member(root, "model", dict)
        self.config = ModelConfig.from_dict(self._member(model, "config", dict), f"{self.path}: model.config")
        self.fingerprint: str = self._member(model, "fingerprint", str)
        self.tokenizer: dict[str, str] = self._member(root, "tokenizer", dict)
        self.compute: str = self._member(root, "compute", str)
        self._require(self.compute in _ELEMENT, f"compute must be fp32 or bf16, not '{self.compute}'")
        self.token_bytes = self._count(root, "token_bytes")
        self._require(self.token_bytes in (2, 4), f"token_bytes must be 2 or 4, not {self.token_bytes}")
        self.reading = root.get("reading") is not None  # the program has not finished what it was reading
        memory = root.get("memory")
        self._memory: dict[str, Any] | None = None if memory is None else self._member(root, "memory", dict)
        self.tokens, self.chunks = 0, 0
        self._pages: list[_Page] = []
        self.documents: list[Document] = []
        if self._memory is not None:
            self._read_memory(self._memory)

    def _read_memory(self, memory: dict[str, Any]) -> None:
        c = self.config
        self.tokens = self._count(memory, "tokens")
        row_bytes = {
            "landmarks": c.retrieval_dim * _ELEMENT[self.compute],
            "k": c.chunk * c.memory_kv_heads * c.head_dim * _ELEMENT[self.compute],
            "v": c.chunk * c.memory_kv_heads * c.head_dim * _ELEMENT[self.compute],
            "tokens": c.chunk * self.token_bytes,
        }
        for page in self._member(memory, "pages", list):
            self._require(isinstance(page, dict), "a page is not an object")
            count, first = self._count(page, "chunks"), self._count(page, "first")
            self._require(count > 0, "a page has no chunks")
            for name, size in row_bytes.items():
                held = len(self.extent(page.get(name)))
                whole = held % size == 0 and held // size >= first + count
                self._require(whole, f"'{name}' of a page has {held} bytes, not {first + count} or more chunks of {size}")
            self._pages.append(_Page(count, first, {name: page[name] for name in row_bytes}))
            self.chunks += count
        right = self.chunks == self.tokens // c.chunk
        self._require(right, f"{self.tokens} tokens are {self.tokens // c.chunk} chunks of {c.chunk}, the pages have {self.chunks}")
        partial: Any = memory.get("partial_tokens")
        held = 0 if partial == -1 else len(self.extent(partial))
        self._require(held == self.tokens % c.chunk * self.token_bytes, "'partial_tokens' is not the rest of the text")
        self._partial_tokens = partial
        starts = []
        for document in self._member(memory, "documents", list):
            self._require(isinstance(document, dict), "a document is not an object")
            starts.append((self._member(document, "name", str), self._count(document, "token")))
        begins = [begin for _, begin in starts]
        ordered = begins == sorted(begins) and (not begins or (begins[0] == 0 and begins[-1] <= self.tokens))
        self._require(ordered, "the documents are not in the order of their first tokens, from 0 on")
        self.documents = [Document(name, begin, end) for (name, begin), end in zip(starts, [*begins[1:], self.tokens], strict=True)]

    def _member(self, holder: dict[str, Any], key: str, kind: type) -> Any:
        self._require(type(holder.get(key)) is kind, f"'{key}' is missing or of another kind")
        return holder[key]

    def _count(self, holder: dict[str, Any], key: str) -> int:
        value = self._member(holder, key, int)
        self._require(0 <= value < 1 << 62, f"'{key}' is {value}")
        return value

    def token_ids(self, begin: int = 0, end: int | None = None) -> np.ndarray:
        """Ids of tokens begin .. end of the text, int64."""
        end = self.tokens if end is None else end
        if not 0 <= begin <= end <= self.tokens:
            raise ValueError(f"tokens {begin} .. {end} of a text of {self.tokens}")
        size, dtype = self.config.chunk, f"<u{self.token_bytes}"
        parts, at = [np.zeros(0, np.int64)], 0
        for page in self._pages:
            here = slice(max(begin - at, 0) + page.first * size, max(0, min(end - at, page.chunks * size)) + page.first * size)
            parts.append(self.extent(page.extents["tokens"]).view(dtype)[here].astype(np.int64))
            at += page.chunks * size
        if self.tokens > at and end > at:
            parts.append(self.extent(self._partial_tokens).view(dtype)[max(begin - at, 0) : end - at].astype(np.int64))
        ids = np.concatenate(parts)
        self._require(not len(ids) or int(ids.max()) < self.config.vocab, "a token id lies outside the vocabulary")
        return ids

    def chunk_tokens(self, number: int) -> np.ndarray:
        """Ids of one complete chunk [S]: what a selected chunk says."""
        if not 0 <= number < self.chunks:
            raise ValueError(f"chunk {number} of {self.chunks}")
        return self.token_ids(number * self.config.chunk, (number + 1) * self.config.chunk)

    def document_at(self, token: int) -> Document:
        """The document that holds a token (its position in the whole text)."""
        for document in reversed(self.documents):
            if document.begin <= token < document.end:
                return document
        raise ValueError(f"token {token} lies in no document")

    def landmarks(self) -> torch.Tensor:
        """[chunks,Q,Dr] in the file's dtype; a view where there is one page, otherwise a copy."""
        pages = [self._tensor(page, "landmarks")[0] for page in self._pages]
        shape = (0, self.config.retrieval_heads, self.config.retrieval_dim // self.config.retrieval_heads)
        return pages[0] if len(pages) == 1 else torch.cat(pages) if pages else torch.empty(shape)

    def state(self, model: Model) -> Memory:
        """The memory that Model.advance() goes on from. Chunks stay in the file, mapped; the lock on it lasts as long as the memory.

        ValueError if another model made the file, or if it holds no finished memory."""
        self._check_model(model)
        if self._memory is None:
            raise ValueError(f"{self.path}: holds no finished memory{'; a reading is in progress' if self.reading else ''}")
        c, state = self.config, self._memory
        lower = self._member(state, "lower", list)
        self._require(len(lower) == c.lower_layers, f"'memory' has {len(lower)} lower layers, the model {c.lower_layers}")
        row, history = (c.kv_heads, c.head_dim), min(self.tokens, c.window - 1)
        caches: list[Cache | None] = []
        for pair in lower:
            self._require(isinstance(pair, dict), "'lower' must hold objects with 'k' and 'v'")
            k, v = (self._state_tensor(pair.get(name), (1, history, *row), self.compute) for name in ("k", "v"))
            caches.append(Cache(k, v))
        partial = self._state_tensor(state.get("partial"), (1, self.tokens % c.chunk, c.d_model), "fp32")
        tail = self._state_tensor(state.get("tail"), (1, min(self.tokens, c.upper_reach), c.d_model), "fp32")
        pages = [Page(*(self._tensor(page, name) for name in ("landmarks", "k", "v"))) for page in self._pages]
        return Memory(batch=1, tokens=self.tokens, pages=pages, lower=caches, partial=partial, tail=tail)

    def _check_model(self, model: Model) -> None:
        if model.config != self.config:
            ours, theirs = vars(model.config), vars(self.config)
            name = next(name for name in ours if ours[name] != theirs[name])
            raise ValueError(f"{self.path}: was made by another model: {name} is {theirs[name]!r} there and {ours[name]!r} here")
        if model.fingerprint is None:
            warnings.warn(
                f"{self.path}: whether this model's weights made it cannot be checked (package xxhash, load_model())", stacklevel=3
            )
        elif model.fingerprint != self.fingerprint:
            raise ValueError(f"{self.path}: was made by another model: fingerprint {self.fingerprint}, this one has {model.fingerprint}")

    def _tensor(self, page: _Page, name: str) -> torch.Tensor:
        c = self.config
        shape = (c.chunk, c.memory_kv_heads, c.head_dim)
        if name == "landmarks":
            shape = (c.retrieval_heads, c.retrieval_dim // c.retrieval_heads)  # type: ignore[assignment]
        whole = _as_tensor(self.extent(page.extents[name]), self.compute).view(1, -1, *shape)
        return whole[:, page.first : page.first + page.chunks]

    def _state_tensor(self, stored: Any, shape: tuple[int, ...], kind: str) -> torch.Tensor:
        """A small tensor of the state, copied as fp32; its checksum is compared."""
        self._require(isinstance(stored, dict) and "extent" in stored, "a tensor of the state is not an object with 'extent'")
        number = stored["extent"]
        if number == -1 or math.prod(shape) == 0:
            self._require(number == -1 and math.prod(shape) == 0, f"the state lacks, or has too much of, a tensor of shape {list(shape)}")
            return torch.zeros(shape)
        data = self.extent(number, verify=True)
        self._require(stored.get("shape") == list(shape), f"extent {number} has shape {stored.get('shape')}, not {list(shape)}")
        self._require(
            len(data) == math.prod(shape) * _ELEMENT[kind], f"extent {number} has {len(data)} bytes, too many or few for its shape"
        )
        return _as_tensor(data, kind).reshape(shape).to(torch.float32, copy=True)


def _as_tensor(data: np.ndarray, kind: str) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "not writable": nothing here writes
        if kind == "fp32":
            return torch.from_numpy(data.view("<f4"))
        return torch.from_numpy(data.view("<i2")).view(torch.bfloat16)


def open_memory(path: str | os.PathLike[str]) -> MemoryFile:
    """Opens a memory file for reading. ValueError for a malformed file, BlockingIOError while another process writes to it."""
    return MemoryFile(path)
