"""The model's configuration: config.json of a checkpoint (src/cairn/model/config.h says what each switch means)."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class UpperLayer:
    """One entry of `upper`: "window", or "memory" with any of "+window", "-mlp", "-retrieval" behind it."""

    memory: bool
    window: bool
    mlp: bool
    retrieval: bool

    @staticmethod
    def parse(text: str) -> UpperLayer:
        if text == "window":
            return UpperLayer(memory=False, window=True, mlp=True, retrieval=False)
        rest = text.removeprefix("memory")
        found = {"+window": False, "-mlp": False, "-retrieval": False}
        while text.startswith("memory") and rest:
            suffix = next((s for s, given in found.items() if rest.startswith(s) and not given), None)
            if suffix is None:
                break
            found[suffix] = True
            rest = rest.removeprefix(suffix)
        if rest or not text.startswith("memory"):
            raise ValueError(f"'{text}' is not a layer of `upper`")
        return UpperLayer(memory=True, window=found["+window"], mlp=not found["-mlp"], retrieval=not found["-retrieval"])


_CHOICES = {
    "landmark": ("cls", "mean"),
    "weights": ("softmax", "stick_breaking"),
    "retrieval_stride": ("token", "chunk"),
    "positions": ("rope", "alibi", "none"),
}
_MAY_BE_ZERO = ("mlp_width", "lower_layers", "encoder_layers")


@dataclass(frozen=True)
class ModelConfig:
    # In the order of the program's config.json: to_json() must give its very text.
    vocab: int = 4096
    d_model: int = 512
    heads: int = 8
    kv_heads: int = 8
    head_dim: int = 64
    mlp_width: int = 0
    window: int = 129
    lower_layers: int = 4
    chunk: int = 64
    encoder_layers: int = 1
    landmark: str = "cls"
    pre_norm: bool = False
    memory_heads: int = 16
    memory_kv_heads: int = 1
    retrieval_dim: int = 512
    retrieval_heads: int = 1
    landmark_norm: bool = True
    upper: list[str] = field(default_factory=lambda: ["memory", "window", "memory", "window"])
    top_k: int = 8
    weights: str = "softmax"
    off_by_one: bool = False
    rank_decay: bool = False
    exclude_window: bool = False
    retrieval_stride: str = "token"
    positions: str = "rope"
    rope_theta: float = 1e4
    alpha: float = 0.0
    beta: float = 0.0

    def __post_init__(self) -> None:
        for option in dataclasses.fields(self):
            _check_type(option.name, str(option.type), getattr(self, option.name))
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, not '{getattr(self, name)}'")

        def require(holds: bool, message: str) -> None:
            if not holds:
                raise ValueError(message)

        require(self.heads % self.kv_heads == 0, f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        require(self.memory_heads % self.memory_kv_heads == 0, f"memory_heads ({self.memory_heads}) must be a multiple of memory_kv_heads")
        require(self.retrieval_heads in (1, self.memory_kv_heads), f"retrieval_heads ({self.retrieval_heads}) must be 1 or memory_kv_heads")
        require(self.retrieval_dim % self.retrieval_heads == 0, "retrieval_dim must be a multiple of retrieval_heads")
        require(self.head_dim % 2 == 0, f"head_dim ({self.head_dim}) must be even")
        require(self.encoder_layers > 0 or self.landmark == "mean", 'landmark "cls" needs encoder_layers >= 1')
        require(0 <= self.alpha <= 1 and 0 <= self.beta <= 1, "alpha and beta must be 0 to 1")
        require(1 <= self.rope_theta <= 1e12, "rope_theta must be 1 to 1e12")
        plain = self.weights == "softmax" and not self.off_by_one and not self.rank_decay
        require(self.alpha == 0 or plain, 'alpha > 0 goes with weights "softmax", without off_by_one and rank_decay')
        require(len(self.upper) > 0, "upper is empty")
        first = next((layer for layer in self.upper_layers() if layer.memory), None)
        require(first is None or first.retrieval, "the first memory layer of upper must have a retrieval of its own")

    def upper_layers(self) -> list[UpperLayer]:
        return [UpperLayer.parse(text) for text in self.upper]

    @property
    def mlp(self) -> int:
        return self.mlp_width or max(64, 8 * self.d_model // 3 // 64 * 64)

    @property
    def upper_reach(self) -> int:
        """Tokens before a row that its logits depend on above the midpoint (docs/algorithm.md, section 4)."""
        layers = self.upper_layers()
        reach = sum(layer.window for layer in layers) * (self.window - 1)
        if self.retrieval_stride == "chunk":
            reach += sum(layer.memory and layer.retrieval for layer in layers) * self.chunk
        return reach

    @staticmethod
    def from_dict(values: dict[str, Any], source: str) -> ModelConfig:
        """What is not given keeps its default, as in the program. ValueError, beginning with `source`, for anything unknown or wrong."""
        if not isinstance(values, dict):
            raise ValueError(f"{source}: must be a JSON object")
        known = {option.name: option for option in dataclasses.fields(ModelConfig)}
        for name, value in values.items():
            if name not in known:
                raise ValueError(f"{source}: unknown option '{name}'")
            if known[name].type == "float" and type(value) is int:
                values = {**values, name: float(value)}
        try:
            return ModelConfig(**values)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None

    @staticmethod
    def from_json(text: str, source: str) -> ModelConfig:
        return ModelConfig.from_dict(parse_json(text, source), source)

    def to_json(self) -> str:
        """The text that the program writes (and takes fingerprints of)."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"


def _check_type(name: str, kind: str, value: Any) -> None:
    if kind == "int":
        if type(value) is not int or not (0 if name in _MAY_BE_ZERO else 1) <= value <= 1 << 28:
            raise ValueError(f"{name} must be an integer from {0 if name in _MAY_BE_ZERO else 1}, not {value!r}")
    elif kind == "float":
        if type(value) is not float:
            raise ValueError(f"{name} must be a number, not {value!r}")
    elif kind == "list[str]":
        if type(value) is not list or not all(type(item) is str for item in value):
            raise ValueError(f"{name} must be a list of strings, not {value!r}")
    elif type(value).__name__ != kind:
        raise ValueError(f"{name} must be {'true or false' if kind == 'bool' else 'a string'}, not {value!r}")


def parse_json(text: str | bytes, source: str) -> Any:
    """Strict JSON: UTF-8, no key twice, no NaN. ValueError naming `source`."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise ValueError("a key occurs twice")
        return dict(pairs)

    def no_constant(word: str) -> Any:
        raise ValueError(f"{word} is no number")

    try:
        return json.loads(text if isinstance(text, str) else text.decode("utf-8"), object_pairs_hook=unique, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source}: not valid JSON: {error}") from None
