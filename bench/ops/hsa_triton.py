#!/usr/bin/env python3
"""Times what there is to compare memory attention with on this machine's GPU, in the same run as bench_hsa_cuda.

    python3 -O bench/ops/hsa_triton.py FOLDER [--function MODULE:NAME] [--index FILE] [--full]

FOLDER is a checkout of RamstorageAI/long-context-modeling (its code stays there; nothing of it is part of this project); their function is
ops.hsa_triton:HSA. -O: their host-side assertions wait for the GPU. Without --function it is looked for under FOLDER by name (a Python file
that mentions triton and defines a function or autograd Function whose name begins with HSA or hsa). It is called by the names of its
parameters. Prints CSV: medians of forward and backward in ms with a cold L2 cache, for one sequence, 16 query heads, 1 K/V head, width 64,
chunks of 64, uniform distinct past chunks; and, once a shape, the relative error of theirs against plain fp32 on a few rows, so that a wrong
call cannot pass for a fast one.

--index: the selections of a safetensors file (bench_hsa_cuda --write-index: those of a trained model) instead of random chunks.
--full: full causal attention by PyTorch's cuDNN and flash backends at 1K to 64K, the smaller time of K/V as they are (enable_gqa) and
repeated for every head.
"""
import argparse
import importlib
import inspect
import json
import pathlib
import re
import struct
import sys
import types

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


def load(module):
    """Their file imports pytest for its tests; a machine that only measures may have none."""
    try:
        import pytest  # noqa: F401
    except ImportError:
        keep = lambda *_, **__: lambda function: function
        sys.modules["pytest"] = types.SimpleNamespace(mark=types.SimpleNamespace(parametrize=keep))
    return importlib.import_module(module)


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


def read_indices(path):
    """{name: [1, L, 1, N]} of the int32 tensors [L, N] of a safetensors file."""
    data = pathlib.Path(path).read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    found = {}
    for name, info in json.loads(data[8 : 8 + size]).items():
        if name == "__metadata__":
            continue
        if info["dtype"] != "I32" or len(info["shape"]) != 2:
            raise SystemExit(f"{path}: tensor {name} is not int32 [tokens, slots]")
        begin, end = info["data_offsets"]
        index = torch.frombuffer(bytearray(data[8 + size + begin : 8 + size + end]), dtype=torch.int32).view(info["shape"])
        found[name] = index.long().cuda()[None, :, None, :].contiguous()
    return found


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


def bench(work):
    """Median ms; do_bench writes 256 MB before each call."""
    return triton.testing.do_bench(work, warmup=20, rep=150, return_mode="median")


def difference(out, q, k, v, weight, index):
    """Relative error (RMS) of out on 64 rows against the equation in fp32."""
    rows = torch.linspace(0, q.shape[1] - 1, 64, device="cuda").long()
    chunks = index[0, rows, 0]  # [R, N]
    keys, values = (x[0, :, 0].float().view(-1, CHUNK, WIDTH)[chunks] for x in (k, v))  # [R, N, S, D]
    p = torch.einsum("rhd,rnsd->rnhs", q[0, rows].float(), keys).mul(WIDTH**-0.5).softmax(-1)
    want = torch.einsum("rn,rnhs,rnsd->rhd", weight[0, rows, 0].float(), p, values)
    return ((out[0, rows].float() - want).square().mean().sqrt() / want.square().mean().sqrt()).item()


def theirs(function, name, index):
    length, slots = index.shape[1], index.shape[3]
    real = lambda heads: torch.randn(1, length, heads, WIDTH, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    q, k, v = real(HEADS), real(1), real(1)
    weight = torch.rand(1, length, 1, slots, device="cuda").masked_fill(index < 0, 0).requires_grad_()
    # Theirs knows no unused slots: chunks that are not visible, distinct, with weight 0.
    index = torch.where(index < 0, length // CHUNK - 1 - torch.arange(slots, device="cuda"), index).contiguous()
    out = call(function, q, k, v, weight, index)
    out = out[0] if isinstance(out, tuple) else out
    grad = torch.randn_like(out)
    with torch.no_grad():
        error = difference(out, q, k, v, weight, index)
        forward = bench(lambda: call(function, q, k, v, weight, index))
    backward = bench(lambda: torch.autograd.grad(out, (q, k, v, weight), grad, retain_graph=True))
    print(f"{name},{length},{slots},{forward:.3f},{backward:.3f},{error:.1e}", flush=True)


def full(name, backend, length):
    from torch.nn.attention import sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention as attend

    best = [float("inf")] * 2
    for shared in (True, False):
        real = lambda heads: torch.randn(1, length, heads, WIDTH, device="cuda", dtype=torch.bfloat16).transpose(1, 2).requires_grad_()
        q, k, v = real(HEADS), real(1 if shared else HEADS), real(1 if shared else HEADS)
        run = lambda: attend(q, k, v, is_causal=True, enable_gqa=shared)
        try:
            with sdpa_kernel(backend):
                out = run()
                grad = torch.randn_like(out)
                with torch.no_grad():
                    forward = bench(run)
                backward = bench(lambda: torch.autograd.grad(out, (q, k, v), grad, retain_graph=True))
        except RuntimeError as error:
            print(f"# {name}, K/V {'shared' if shared else 'repeated'}: {str(error).splitlines()[0]}")
            continue
        best = [min(best[0], forward), min(best[1], backward)]
    print(f"{name},{length},all,{best[0]:.3f},{best[1]:.3f},", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--function", help="MODULE:NAME inside the folder")
    parser.add_argument("--index", help="safetensors file")
    parser.add_argument("--full", action="store_true", help="full attention, too")
    arguments = parser.parse_args()
    sys.path.insert(0, arguments.folder)
    candidates = [tuple(arguments.function.split(":"))] if arguments.function else find(arguments.folder)
    if not candidates:
        raise SystemExit(f"hsa_triton.py: no function HSA* in {arguments.folder}; name it with --function MODULE:NAME")
    module, name = candidates[0]
    function = getattr(load(module), name)
    print(f"# {module}:{name} on {torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}")
    print("what,L,N,forward ms,backward ms,relative error of theirs")
    if arguments.index:
        for name, index in read_indices(arguments.index).items():
            theirs(function, f"theirs {name}", index)
        return
    for length in (4096, 65536):
        for slots in (8, 32):
            theirs(function, "theirs", selection(length, slots))
    if arguments.full:
        from torch.nn.attention import SDPBackend

        for length in (1024, 2048, 4096, 8192, 65536):
            full("full attention cuDNN", SDPBackend.CUDNN_ATTENTION, length)
            full("full attention flash", SDPBackend.FLASH_ATTENTION, length)


if __name__ == "__main__":
    main()
