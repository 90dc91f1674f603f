#!/usr/bin/env python3
"""A small PyTorch model with memory attention learns to look things up.

    python3 python/examples/train_small_model.py [--steps 200] [--device cuda] [--compile]

A text names 16 keys, each with a value behind it, then noise, and then asks for keys: the value must follow. What is asked for stands
farther back than the window of the model's own attention reaches, so that only the memory can find it. Prints the loss (ln 16 = 2.77 is
guessing) and the share of right answers; ends with exit code 1 if the loss has not fallen.

On a machine that does other work, too, set OMP_WAIT_POLICY=passive: waiting threads then sleep."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # so that it runs without installing

from cairn.layers import MemoryAttention

KEYS, VALUES, NOISE, ASKED = 16, 16, 32, 16
LENGTH = 2 * KEYS + NOISE + 2 * ASKED


class SmallModel(nn.Module):
    """Embedding; attention within a short window; memory attention; MLP."""

    def __init__(self, vocab: int, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.embed = nn.Embedding(vocab, width)
        self.window_norm, self.memory_norm, self.mlp_norm, self.norm = (nn.LayerNorm(width) for _ in range(4))
        self.qkv, self.o_proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.distance = nn.Parameter(torch.zeros(heads, window))  # a learned bias for each distance, instead of rotary positions
        self.memory = MemoryAttention(width, heads=heads, head_dim=width // heads, chunk=8, top_k=6)
        nn.init.normal_(self.embed.weight, std=width**-0.5)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def window_attention(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        row = torch.arange(x.shape[1], device=x.device)
        behind = row[:, None] - row
        bias = self.distance[:, behind.clamp(0, self.window - 1)].masked_fill((behind < 0) | (behind >= self.window), -torch.inf)
        return self.o_proj(F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        x = x + self.window_attention(self.window_norm(x))
        x = x + self.memory(self.memory_norm(x))
        x = x + self.mlp(self.mlp_norm(x))
        return self.norm(x) @ self.embed.weight.T


def batch(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Tokens [B,LENGTH], and the targets behind them, -100 where nothing is asked. Keys, then values, then noise have ids of their own."""
    keys = torch.rand(size, KEYS, generator=generator).argsort(-1)
    values = torch.randint(0, VALUES, (size, KEYS), generator=generator)
    named = torch.stack([keys, KEYS + values], -1).flatten(1)
    noise = KEYS + VALUES + torch.randint(0, NOISE, (size, NOISE), generator=generator)
    asked = torch.randint(0, KEYS, (size, ASKED), generator=generator)
    asks = torch.stack([keys.gather(1, asked), KEYS + values.gather(1, asked)], -1).flatten(1)
    tokens = torch.cat([named, noise, asks], 1)
    targets = torch.full_like(tokens, -100)
    targets[:, -2 * ASKED :: 2] = tokens[:, -2 * ASKED + 1 :: 2]
    return tokens, targets


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    model = SmallModel(KEYS + VALUES + NOISE, options.width, heads=4, window=4).to(options.device)
    run = torch.compile(model, fullgraph=True) if options.compile else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=options.steps, pct_start=0.1)
    print(f"{sum(p.numel() for p in model.parameters())} parameters, texts of {LENGTH} tokens, chunks of 8")
    losses: list[float] = []
    for step in range(options.steps):
        tokens, targets = (x.to(options.device) for x in batch(options.batch, generator))
        logits = run(tokens)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % max(options.steps // 10, 1) == 0 or step + 1 == options.steps:
            asked = targets >= 0
            right = (logits.argmax(-1) == targets)[asked].float().mean().item()
            print(f"step {step:4d}  loss {losses[-1]:.3f}  right {right:.0%}", flush=True)
    few = max(len(losses) // 10, 1)
    first, last = sum(losses[:few]) / few, sum(losses[-few:]) / few
    print(f"loss {first:.3f} -> {last:.3f}")
    return 0 if last < first else 1


if __name__ == "__main__":
    sys.exit(main())
