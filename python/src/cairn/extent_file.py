"""Extent files: one file of byte ranges that changes by transactions (docs/formats.md). Everything is checked before it is used."""

from __future__ import annotations

import os
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from cairn.checkpoint import xxhash
from cairn.config import parse_json

try:
    import fcntl
except ImportError:  # no such locks on this system
    fcntl = None  # type: ignore[assignment]

MAGIC = b"CAIRNMEM"
ALIGNMENT = 4096
_SLOT = struct.Struct("<8sII5Q")  # magic, version, reserved, sequence, directory offset, bytes, checksum, size of the file
_NO_HASH = "the package xxhash is missing: checksums of {} are not compared"


class ExtentFile:
    """Open for reading. ValueError names the file and what is wrong.

    The shared lock on the file lasts until close(), and as long as any array or tensor made from it: what they show never changes."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self._file = open(self.path, "rb")  # noqa: SIM115, closed by close()
        except OSError as error:
            raise ValueError(f"{self.path}: cannot be opened: {error.strerror}") from None
        try:
            if xxhash is None:
                warnings.warn(_NO_HASH.format(self.path), stacklevel=4)
            self._lock()
            size = os.fstat(self._file.fileno()).st_size
            self._require(size >= 2 * ALIGNMENT, f"{size} bytes are too few for a memory file")
            # The mapping has a descriptor of its own for the same open file; that is why the lock lasts as long as the mapping.
            self._data: np.ndarray | None = np.memmap(self._file, dtype=np.uint8, mode="r")
            self._read_directory(*self._newest_slot(size))
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        self._data = None
        self._file.close()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def extents(self) -> int:
        return len(self._table)

    def extent(self, number: int, *, verify: bool = False) -> np.ndarray:
        """Bytes of an extent, mapped. verify: compares its checksum (where xxhash is there)."""
        self._require(type(number) is int and 0 <= number < self.extents and self._table[number][1] > 0, f"there is no extent {number!r}")
        offset, size, checksum = (int(n) for n in self._table[number])
        data = self._bytes(offset, offset + size)
        if verify and xxhash is not None:
            self._require(xxhash.xxh3_64_intdigest(data.data) == checksum, f"extent {number} is damaged: its checksum does not agree")
        return data

    def verify(self) -> None:
        """Reads the whole file and compares every checksum. ValueError for damage, RuntimeError without the package xxhash."""
        if xxhash is None:
            raise RuntimeError(_NO_HASH.format(self.path))
        for number in range(self.extents):
            if self._table[number][1]:
                self.extent(number, verify=True)

    def _require(self, holds: bool, message: str) -> None:
        if not holds:
            raise ValueError(f"{self.path}: {message}")

    def _bytes(self, begin: int, end: int) -> np.ndarray:
        if self._data is None:
            raise ValueError(f"{self.path}: is closed")
        return self._data[begin:end]

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            raise BlockingIOError(f"{self.path}: another process is writing to it; try again when that is done") from None

    def _newest_slot(self, size: int) -> tuple[int, int, int, int]:
        best, newest = None, 0
        for slot in range(2):
            raw = self._bytes(slot * ALIGNMENT, slot * ALIGNMENT + 128).tobytes()
            magic, version, _, sequence, offset, length, checksum, end = _SLOT.unpack_from(raw)
            whole = magic == MAGIC and (xxhash is None or xxhash.xxh3_64_intdigest(raw[:120]) == struct.unpack_from("<Q", raw, 120)[0])
            if not whole or sequence <= newest or sequence % 2 == slot:
                continue
            self._require(version == 1, f"is of version {version}; this program reads version 1")
            best, newest = (offset, length, checksum, end), sequence
        if best is None:
            raise ValueError(f"{self.path}: is not a memory file, or both its headers are damaged")
        self._require(best[3] <= size, f"is cut off: {size} bytes instead of {best[3]}")
        return best

    def _read_directory(self, offset: int, length: int, checksum: int, end: int) -> None:
        fits = offset % ALIGNMENT == 0 and offset >= 2 * ALIGNMENT and 8 <= length <= end and offset <= end - length
        self._require(fits, f"the directory ({length} bytes at {offset}) does not lie inside the file")
        raw = self._bytes(offset, offset + length)
        if xxhash is not None:
            self._require(xxhash.xxh3_64_intdigest(raw.data) == checksum, "the directory is damaged: its checksum does not agree")
        count = int(raw[:8].view("<u8")[0])
        self._require(count <= (length - 8) // 24, f"the directory says {count} extents, more than it can hold")
        self._table = raw[8 : 8 + 24 * count].view("<u8").reshape(count, 3).astype(np.uint64)
        self._check_ranges(offset, length, end)
        self.root = parse_json(raw[8 + 24 * count :].tobytes(), str(self.path))
        self._require(isinstance(self.root, dict), "the root of the directory is not a JSON object")

    def _check_ranges(self, offset: int, length: int, end: int) -> None:
        ranges = [(offset, offset + length, "the directory")]
        for number, (begin, size, checksum) in enumerate(self._table.tolist()):
            if size == 0:
                self._require(begin == 0 and checksum == 0, f"extent {number} has no bytes but a place")
                continue
            fits = begin % ALIGNMENT == 0 and begin >= 2 * ALIGNMENT and size <= end and begin <= end - size
            self._require(fits, f"extent {number} ({size} bytes at {begin}) does not lie inside the file")
            ranges.append((begin, begin + size, f"extent {number}"))
        ranges.sort()
        for (_, one_end, one), (begin, _, other) in zip(ranges, ranges[1:], strict=False):
            self._require(one_end <= begin, f"{one} and {other} overlap")
