"""Models and memory files of the Cairn program in plain PyTorch; its operators, compiled, in cairn.ops and cairn.layers."""

from typing import Any

from cairn.config import ModelConfig, UpperLayer
from cairn.memory import Memory, Page
from cairn.memory_file import Document, MemoryFile, open_memory
from cairn.model import Model, load_model

__all__ = ["Document", "Memory", "MemoryFile", "Model", "ModelConfig", "Page", "UpperLayer", "load_model", "open_memory"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Only on first use: these need the compiled library, the rest of the package does not.
    if name in ("ops", "layers"):
        import importlib

        return importlib.import_module(f"cairn.{name}")
    raise AttributeError(f"module 'cairn' has no attribute {name!r}")
