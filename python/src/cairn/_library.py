"""Finds libcairn_torch.so, which holds torch.ops.cairn, sees to it that it fits this torch, and loads it."""

from __future__ import annotations

import mmap
import os
import re
from pathlib import Path

import torch

NAME = "libcairn_torch.so"
_MARK = re.compile(rb"cairn_torch_build\{([^}\0]{1,200})\}")


def places() -> list[Path]:
    """Where it may be, in order: CAIRN_LIBRARY and nowhere else; in this package; in the build folders of a checkout around it."""
    named = os.environ.get("CAIRN_LIBRARY")
    if named:
        return [Path(named)]
    package = Path(__file__).resolve().parent
    found = [package / "lib" / NAME]
    root = package.parents[2] if len(package.parents) > 2 else package
    if (root / "CMakeLists.txt").is_file() and package.parent == root / "python" / "src":
        found += [root / "build" / NAME, root / "build" / "cuda" / NAME]
    return found


def read_build(path: Path) -> dict[str, str]:
    """What a library says about itself, read from the file without loading it: versions of cairn, torch and cuda ("none")."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found = _MARK.search(data)
        text = found[1].decode() if found else None
    if text is None:
        raise ImportError(f"cairn: {path} is no {NAME} of Cairn; `make wheel` builds one")
    return parse_build(text)


def parse_build(text: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in text.split(";"))


def check_build(build: dict[str, str], path: Path, torch_version: str, torch_cuda: str | None) -> None:
    """ImportError, with how to mend it, if a library of that build must not be loaded beside that torch."""
    release = torch_version.split("+")[0]
    if build.get("torch") != release:
        raise ImportError(
            f"cairn: {path} was built for torch {build.get('torch')}, but this is torch {torch_version}, whose C++ interface differs. "
            f"Install torch {build.get('torch')}, or a build of Cairn for torch {release} (`make wheel` in a checkout that builds with it)"
        )
    cuda = build.get("cuda", "none")
    if cuda != "none" and (torch_cuda is None or torch_cuda.split(".")[0] != cuda.split(".")[0]):
        mine = "has no CUDA" if torch_cuda is None else f"is for CUDA {torch_cuda}"
        raise ImportError(
            f"cairn: {path} was built for CUDA {cuda}, but this torch {torch_version} {mine}. "
            f"Install torch {build.get('torch')} for CUDA {cuda.split('.')[0]}, or the build of Cairn without kernels for GPUs "
            "(`make wheel`), which runs beside any torch of its version"
        )


def load() -> dict[str, str]:
    """Makes torch.ops.cairn known, once; returns what the library says about its build. ImportError: what is wrong, how to mend it."""
    if not hasattr(torch.ops.cairn, "build"):  # otherwise loaded already, by whomever
        tried = places()
        path = next((place for place in tried if place.is_file()), None)
        if path is None:
            raise ImportError(
                f"cairn: {NAME}, which holds the compiled operators, is not there (looked for {', '.join(map(str, tried))}). "
                "`make wheel` in a checkout of Cairn builds a wheel with it: pip install build/wheel/cairn-*.whl. Or let CAIRN_LIBRARY "
                "name the file. cairn.plain has the same operators in plain PyTorch"
            )
        check_build(read_build(path), path, torch.__version__, torch.version.cuda)
        try:
            torch.ops.load_library(path)
        except OSError as error:
            raise ImportError(
                f"cairn: {path} cannot be loaded: {error}. It needs the libraries of torch and a C++ library (libstdc++) no older than "
                "that of the machine where it was built; `make wheel` on this machine builds one that fits"
            ) from error
    return parse_build(torch.ops.cairn.build().partition("{")[2].rstrip("}"))
