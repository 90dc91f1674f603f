"""torch.ops.cairn beside direct statements in plain PyTorch (cairn.plain), eager and compiled, on one GPU, bf16.

    python3 bench/ops/pytorch.py [--csv FILE] [--shapes 4096:8,65536:8]

16 query heads, one key/value head, width 64, chunks of 64, uniform distinct past chunks with a fixed seed; selection from landmarks of
width 512. Medians of CUDA-event times, each with a cold L2 cache and the GPU still busy when the work is queued (so that no time of the
host is in them); the backward is torch.autograd.grad with respect to all operands. Memory: its peak beyond what the forward left."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch._dynamo
import torch._functorch.config

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "python" / "src"))

from cairn import ops, plain

H, D, S, DR = 16, 64, 64, 512


def median_ms(run: Callable[[], object], turns: int) -> float:
    flush = torch.empty(512 << 20, dtype=torch.float32, device="cuda")  # 2 GB: half a millisecond
    times = []
    for _ in range(turns + 2):
        flush.zero_()
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return sorted(times[2:])[turns // 2]


def past_chunks(rows: int, slots: int) -> torch.Tensor:
    """index [1,rows,1,slots]: different chunks behind each row, uniform; -1 where there are fewer."""
    generator = torch.Generator("cuda").manual_seed(1)
    parts = []
    for begin in range(0, rows, 8192):
        row = torch.arange(begin, min(begin + 8192, rows), device="cuda")
        rank = torch.rand(len(row), rows // S, generator=generator, device="cuda")
        rank = rank.masked_fill(torch.arange(rows // S, device="cuda") >= (row // S)[:, None], -1)
        best = rank.topk(slots, -1)
        parts.append(best.indices.masked_fill(best.values < 0, -1).sort(-1, descending=True).values)
    return torch.cat(parts)[None, :, None]


class Table:
    def __init__(self, csv: str | None) -> None:
        self.file = open(csv, "w") if csv else None
        self.line("what", "tokens", "slots", "how", "forward_ms", "backward_ms", "backward_MB", "relative_error")

    def line(self, *cells: object) -> None:
        text = [f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in cells]
        print("  ".join(f"{cell:>{width}}" for cell, width in zip(text, (9, 8, 6, 30, 11, 11, 12, 14), strict=True)), flush=True)
        if self.file:
            self.file.write(",".join(text) + "\n")
            self.file.flush()


Measured = tuple[float, float, float, torch.Tensor]


def measure(run: Callable[[], torch.Tensor], leaves: list[torch.Tensor], cotangent: torch.Tensor) -> Measured:
    out = run()
    grad = lambda: torch.autograd.grad(out, leaves, cotangent, retain_graph=True)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    grad()
    torch.cuda.synchronize()
    peak = (torch.cuda.max_memory_allocated() - before) / 1e6
    turns = 15 if peak < 4000 else 5
    with torch.no_grad():
        forward = median_ms(run, turns)
    return forward, median_ms(grad, turns), peak, out.detach()


def memory_attention(table: Table, rows: int, slots: int) -> None:
    torch.manual_seed(2)
    torch._dynamo.reset()
    make = lambda *shape: torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    q, k, v = make(1, rows, H, D), make(1, rows, 1, D), make(1, rows, 1, D)
    index = past_chunks(rows, slots)
    weight = torch.rand(1, rows, 1, slots, device="cuda", requires_grad=True)
    leaves, cotangent = [q, k, v, weight], torch.randn(1, rows, H, D, device="cuda", dtype=torch.bfloat16)
    some = slice(rows - 512, rows)  # checked against fp32
    exact = plain.hsa(q[:, some].float(), k.float(), v.float(), index[:, some], weight[:, some], S)[0].detach()

    direct = lambda: plain.hsa(q, k, v, index, weight, S, dtype=torch.bfloat16)[0]
    torch._functorch.config.donated_buffer = False  # the backward is run more than once
    compiled = torch.compile(lambda q, k, v, index, weight: plain.hsa(q, k, v, index, weight, S, dtype=torch.bfloat16)[0], dynamic=False)
    ours = lambda: ops.hsa(q, k, v, index, weight, S)
    whole = torch.compile(lambda q, k, v, index, weight: ops.hsa(q, k, v, index, weight, S), fullgraph=True, dynamic=False)
    for how, run in (
        ("torch.ops.cairn", ours),
        ("torch.ops.cairn compiled", lambda: whole(q, k, v, index, weight)),
        ("plain", direct),
        ("plain compiled", lambda: compiled(q, k, v, index, weight)),
    ):
        try:
            forward, backward, peak, out = measure(run, leaves, cotangent)
            error = float((out[:, some].float() - exact).norm() / exact.norm())
            table.line("hsa", rows, slots, how, forward, backward, peak, f"{error:.2e}")
            del out
        except torch.OutOfMemoryError:
            table.line("hsa", rows, slots, how, "no memory", "", "", "")
        torch.cuda.empty_cache()


def selection(table: Table, rows: int, slots: int) -> None:
    torch.manual_seed(3)
    rq, landmarks = (torch.randn(1, n, 1, DR, device="cuda", dtype=torch.bfloat16, requires_grad=True) for n in (rows, rows // S))
    cotangent = torch.randn(1, rows, 1, slots, device="cuda")
    for how, run in (
        ("torch.ops.cairn", lambda: ops.select(rq, landmarks, slots, S)[0]),
        ("plain", lambda: plain.select_dense(rq, landmarks, slots, S)[0]),
    ):
        forward, backward, peak, _ = measure(run, [rq, landmarks], cotangent)
        table.line("select", rows, slots, how, forward, backward, peak, "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--csv")
    parser.add_argument("--shapes", default="4096:8,4096:32,65536:8", help="TOKENS:SLOTS,...")
    options = parser.parse_args()
    print(torch.cuda.get_device_name(), "torch", torch.__version__, "library", ops.BUILD, "kernels", ops.has_cuda_kernels())
    table = Table(options.csv)
    for shape in options.shapes.split(","):
        rows, slots = map(int, shape.split(":"))
        memory_attention(table, rows, slots)
        selection(table, rows, slots)


if __name__ == "__main__":
    main()
