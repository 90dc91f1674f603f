"""What the tests share: where things are, random models, and a small writer of memory files by docs/formats.md."""

from __future__ import annotations

import json
import os
import struct
import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "python" / "src"))

import cairn
from cairn.memory import Memory

try:
    import xxhash
except ImportError:
    xxhash = None

PROGRAM = Path(os.environ.get("CAIRN_PROGRAM", ROOT / "build" / "cairn"))
ORACLE = Path(os.environ.get("CAIRN_ORACLE", ROOT.parent / "shared" / "oracle" / "cases"))

SMALL = dict(
    vocab=61,
    d_model=32,
    heads=4,
    kv_heads=2,
    head_dim=8,
    mlp_width=48,
    window=7,
    lower_layers=2,
    chunk=5,
    memory_heads=4,
    memory_kv_heads=2,
    retrieval_dim=16,
    retrieval_heads=2,
    upper=["memory", "window", "memory+window-retrieval"],
    top_k=3,
    beta=0.3,
)


def random_model(seed: int = 1, **change: object) -> cairn.Model:
    """Weights large enough that every part of the network shows in the logits."""
    generator = torch.Generator().manual_seed(seed)
    model = cairn.Model(cairn.ModelConfig(**{**SMALL, **change}))  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.1 * noise if name.endswith("norm.weight") else 0.3 * noise)
    return model


def random_tokens(batch: int, length: int, vocab: int = 61, seed: int = 2) -> torch.Tensor:
    return torch.randint(0, vocab, (batch, length), generator=torch.Generator().manual_seed(seed))


def relative_rms(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).pow(2).mean().sqrt() / (b.pow(2).mean().sqrt() + 1e-12))


def hash_of(data: bytes) -> int:
    return xxhash.xxh3_64_intdigest(data) if xxhash else 0


class Extents:
    """Writes an extent file at once: add() extents, then save()."""

    def __init__(self) -> None:
        self.data: list[bytes] = []

    def add(self, array: np.ndarray | torch.Tensor) -> int:
        if isinstance(array, torch.Tensor):
            array = array.contiguous().view(torch.int16).numpy() if array.dtype == torch.bfloat16 else array.contiguous().numpy()
        if array.size == 0:
            return -1
        self.data.append(array.tobytes())
        return len(self.data) - 1

    def save(self, path: Path, root: dict, sequence: int = 1) -> None:
        file, rows = bytearray(8192), b""
        for data in self.data:
            rows += struct.pack("<3Q", len(file) if data else 0, len(data), hash_of(data) if data else 0)
            file += data + bytes(-len(data) % 4096)
        directory = struct.pack("<Q", len(self.data)) + rows + json.dumps(root).encode()
        offset = len(file)
        file += directory
        slot = struct.pack("<8sII5Q", b"CAIRNMEM", 1, 0, sequence, offset, len(directory), hash_of(directory), len(file)) + bytes(64)
        at = 0 if sequence % 2 else 4096
        file[at : at + 128] = slot + struct.pack("<Q", hash_of(slot))
        path.write_bytes(file)


def memory_root(extents: Extents, model: cairn.Model, memory: Memory, tokens: torch.Tensor, compute: str = "fp32") -> dict:
    """The state of one text as FORMAT says; pages of 3 chunks share extents of 6, the first page begins at chunk 1 of its extents."""
    c, ids = model.config, tokens[0].numpy().astype("<u2")
    dtype = torch.bfloat16 if compute == "bf16" else torch.float32
    whole = [torch.cat([getattr(page, name)[0] for page in memory.pages]) for name in ("landmarks", "k", "v")] if memory.pages else []
    count = memory.chunks
    whole.append(torch.from_numpy(ids[: count * c.chunk].astype(np.int16)).view(count, c.chunk))
    pages = []
    for begin in range(0, count, 6):
        end = min(begin + 6, count)
        shift = 1 if begin == 0 else 0
        numbers = []
        for table in whole:
            part = table[begin:end] if table.dtype == torch.int16 else table[begin:end].to(dtype)
            numbers.append(extents.add(torch.cat([part[:1]] * shift + [part])))
        for first in range(begin, end, 3):
            names = dict(zip(("landmarks", "k", "v", "tokens"), numbers, strict=True))
            pages.append({"chunks": min(3, end - first), "first": first - begin + shift, **names})
    def keep(tensor: torch.Tensor | None) -> dict:
        number = -1 if tensor is None else extents.add(tensor)
        return {"extent": number, "shape": list(tensor.shape)} if number >= 0 else {"extent": -1}

    lower = [{"k": keep(cache.k.to(dtype)), "v": keep(cache.v.to(dtype))} for cache in memory.lower if cache]
    state = {"lower": lower, "partial": keep(memory.partial), "tail": keep(memory.tail)}
    documents = [{"name": "first.txt", "token": 0}, {"name": "second.txt", "token": 11}][: 1 + (memory.tokens > 11)]
    partial = extents.add(ids[count * c.chunk :])
    return {
        "format": "cairn.memory", "version": 1, "cairn": "0.2.0",
        "model": {"fingerprint": model.fingerprint, "config": json.loads(c.to_json())},
        "tokenizer": {"fingerprint": "0" * 16, "kind": "words"}, "compute": compute, "token_bytes": 2,
        "memory": {
            "tokens": memory.tokens, "pages": pages, "partial_tokens": partial, "documents": documents, **state,
        },
        "reading": None,
    }  # fmt: skip
