#!/usr/bin/env python3
"""Times the authors' Triton kernel of memory attention on this machine's GPU, to compare with bench_hsa_cuda in the same run.

    bench/ops/hsa_triton.py FOLDER [--function MODULE:NAME]

FOLDER is a checkout of RamstorageAI/long-context-modeling (its code stays there; nothing of it is part of this project). Run with `python3 -O`:
their host-side assertions wait for the GPU. The kernel's function
is looked for under FOLDER by name (a Python file that mentions triton and defines a function or autograd Function whose name begins with HSA or
hsa), or given by --function. It is called as f(q, k, v, weights, indices, chunk_size, ...) by the names of its parameters. Prints CSV: medians
of forward and backward in ms, for one sequence, 16 query heads, 1 K/V head, width 64, chunks of 64, uniform distinct past chunks.
"""
import argparse
import importlib
import inspect
import pathlib
import re
import sys

import torch
import triton.testing

HEADS, WIDTH, CHUNK = 16, 64, 64


def find(folder):
    """[(module, name)] of candidates, most likely first."""
    found = []
    for path in sorted(pathlib.Path(folder).rglob("*.py")):
        text = path.read_text(errors="replace")
        if "triton" not in text:
            continue
        for name in re.findall(r"^(?:def|class) ((?:HSA|hsa)\w*)", text, re.M):
            found.append((".".join(path.relative_to(folder).with_suffix("").parts), name))
    return sorted(found, key=lambda x: ("test" in x[0], len(x[1])))


def selection(length, slots):
    """[1, length, 1, slots] of min(slots, visible) distinct past chunks, -1 where there are fewer."""
    generator = torch.Generator(device="cuda").manual_seed(5)
    index = torch.full((length, slots), -1, dtype=torch.long, device="cuda")
    for first in range(0, length, 4096):
        rows = torch.arange(first, min(first + 4096, length), device="cuda")
        noise = torch.rand(len(rows), max(length // CHUNK, slots), device="cuda", generator=generator)
        noise[torch.arange(noise.shape[1], device="cuda")[None] >= (rows // CHUNK)[:, None]] = -1
        value, chosen = noise.topk(slots, -1)
        index[rows] = torch.where(value >= 0, chosen, -1)
    return index.view(1, length, 1, slots)


def call(function, q, k, v, weight, index):
    """By the names of the function's parameters."""
    run = function.apply if isinstance(function, type) else function
    names = list(inspect.signature(function.forward if isinstance(function, type) else function).parameters.values())
    if isinstance(function, type):
        names = names[1:]
    values = []
    for p in names:
        n = p.name.lower()
        if n in ("q", "query", "queries"):
            values.append(q)
        elif n in ("k", "key", "keys"):
            values.append(k)
        elif n in ("v", "value", "values"):
            values.append(v)
        elif "weight" in n or n == "w":
            values.append(weight)
        elif "ind" in n or "idx" in n:
            values.append(index)
        elif "chunk" in n or "block" in n:
            values.append(CHUNK)
        elif "scale" in n:
            values.append(WIDTH**-0.5)
        elif n == "sm_n":  # what is added to the softmax's sum: nothing
            values.append(0.0)
        elif p.default is not inspect.Parameter.empty:
            values.append(p.default)
        else:
            raise SystemExit(f"hsa_triton.py: parameter {p.name} of {function} is unknown here")
    return run(*values)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--function", help="MODULE:NAME inside the folder")
    arguments = parser.parse_args()
    sys.path.insert(0, arguments.folder)
    candidates = [tuple(arguments.function.split(":"))] if arguments.function else find(arguments.folder)
    if not candidates:
        raise SystemExit(f"hsa_triton.py: no function HSA* in {arguments.folder}; name it with --function MODULE:NAME")
    module, name = candidates[0]
    function = getattr(importlib.import_module(module), name)
    print(f"# {module}:{name} on {torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}")
    print("L,N,forward ms,backward ms")
    for length in (4096, 65536):
        for slots in (8, 32):
            real = lambda heads: torch.randn(1, length, heads, WIDTH, device="cuda", dtype=torch.bfloat16, requires_grad=True)
            q, k, v = real(HEADS), real(1), real(1)
            index = selection(length, slots)
            weight = torch.rand(1, length, 1, slots, device="cuda").masked_fill(index < 0, 0).requires_grad_()
            # Theirs knows no unused slots: chunks that are not visible, distinct, with weight 0.
            index = torch.where(index < 0, length // CHUNK - 1 - torch.arange(slots, device="cuda"), index)
            out = call(function, q, k, v, weight, index)
            out = out[0] if isinstance(out, tuple) else out
            grad = torch.randn_like(out)
            bench = lambda work: triton.testing.do_bench(work, warmup=50, rep=300, return_mode="median")
            with torch.no_grad():
                forward = bench(lambda: call(function, q, k, v, weight, index))
            backward = bench(lambda: torch.autograd.grad(out, (q, k, v, weight), grad, retain_graph=True))
            print(f"{length},{slots},{forward:.3f},{backward:.3f}", flush=True)


if __name__ == "__main__":
    main()
