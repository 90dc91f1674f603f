"""Weights of a checkpoint (safetensors) and hashes of files."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cairn.config import parse_json

try:
    import xxhash
except ImportError:
    xxhash = None  # type: ignore[assignment]

try:
    import safetensors.torch as safetensors_torch
except ImportError:
    safetensors_torch = None  # type: ignore[assignment]

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}
_MAX_HEADER = 16 << 20


def hash_hex(data: bytes | mmap.mmap) -> str | None:
    """XXH3-64 as 16 hexadecimal digits, as in the program; None without the package xxhash."""
    return None if xxhash is None else xxhash.xxh3_64_hexdigest(data)


def hash_file(path: Path) -> str | None:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return hash_hex(data)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a file, as stored. ValueError for a malformed file."""
    if safetensors_torch is None:
        return read_safetensors(path)
    try:
        return safetensors_torch.load_file(path)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # the package's own kind of error, and KeyError for a dtype that torch has not
        raise ValueError(f"{path}: not a valid safetensors file: {error}") from None


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """The same without the package: 8 bytes of header size, a JSON header, then the numbers."""
    data = np.memmap(path, dtype=np.uint8, mode="r") if path.stat().st_size >= 8 else np.zeros(0, np.uint8)
    size = struct.unpack("<Q", data[:8].tobytes())[0] if len(data) else 0
    if not 2 <= size <= min(_MAX_HEADER, len(data) - 8):
        raise ValueError(f"{path}: not a safetensors file, or cut off")
    header, numbers = parse_json(data[8 : 8 + size].tobytes(), str(path)), data[8 + size :]
    if not isinstance(header, dict):
        raise ValueError(f"{path}: the header is not a JSON object")
    return {name: _tensor(info, numbers, f"{path}: tensor '{name}'") for name, info in header.items() if name != "__metadata__"}


def _tensor(info: Any, numbers: np.ndarray, where: str) -> torch.Tensor:
    try:
        dtype, shape, (begin, end) = _DTYPES[info["dtype"]], info["shape"], info["data_offsets"]
        if not (0 <= begin <= end <= len(numbers) and all(type(n) is int and n >= 0 for n in shape)):
            raise ValueError("sizes")
        raw = bytearray(numbers[begin:end].tobytes())
        return (torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)).reshape(shape)
    except (KeyError, TypeError, ValueError, RuntimeError):
        raise ValueError(f"{where} is malformed or reaches beyond the file") from None
