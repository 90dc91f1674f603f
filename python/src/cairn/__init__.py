"""Models and memory files of the Cairn program in plain PyTorch."""

from cairn.config import ModelConfig, UpperLayer
from cairn.memory import Memory, Page
from cairn.memory_file import Document, MemoryFile, open_memory
from cairn.model import Model, load_model

__all__ = ["Document", "Memory", "MemoryFile", "Model", "ModelConfig", "Page", "UpperLayer", "load_model", "open_memory"]
__version__ = "0.1.0"
