"""What the tests of the compiled operators share: the library, random operands, errors judged as docs/architecture.md, manner 3, says.

CAIRN_TEST_DEVICE=cuda runs them on a GPU. CAIRN_TEST_SEED repeats a run; each prints its seed when it fails."""

from __future__ import annotations

import os
import unittest
from dataclasses import dataclass

import torch
from support import ROOT, cairn  # noqa: F401  (puts the package into sys.path)

from cairn import _library, plain


def _library_or_skip() -> None:
    os.environ.setdefault("CAIRN_LIBRARY", str(ROOT / "build" / _library.NAME))
    path = _library.places()[0]
    if not path.is_file():
        raise unittest.SkipTest(f"no {path}")
    try:
        _library.check_build(_library.read_build(path), path, torch.__version__, torch.version.cuda)
    except ImportError as error:
        raise unittest.SkipTest(str(error)) from None


_library_or_skip()

from cairn import ops  # a library that fits this torch must load: no skip from here on

DEVICE = torch.device(os.environ.get("CAIRN_TEST_DEVICE", "cpu"))
SEED = int(os.environ.get("CAIRN_TEST_SEED", "0")) or int.from_bytes(os.urandom(4), "little") or 1
torch.manual_seed(SEED)


@dataclass(frozen=True)
class Case:
    """Sizes of one memory attention; extra: tokens behind the last whole chunk."""

    B: int = 2
    L: int = 40
    H: int = 4
    G: int = 2
    D: int = 8
    S: int = 4
    N: int = 3
    C: int = 5
    Gi: int = 1
    Hw: int = 1
    off: bool = False
    extra: int = 0


CASES = [
    Case(Gi=2, Hw=4),
    Case(B=1, L=33, H=6, G=3, D=24, S=5, N=4, C=7, off=True, extra=3),
    Case(B=1, L=90, H=16, G=1, D=64, S=64, N=4, C=6, extra=10),
    Case(B=2, L=130, H=8, G=2, D=32, S=16, N=3, C=9, Gi=2, Hw=2, off=True),
    Case(B=1, L=67, H=4, G=4, D=128, S=32, N=6, C=8, Hw=4),
    Case(B=3, L=1, H=4, G=1, D=64, S=32, N=2, C=3, Hw=4),
    Case(B=1, L=70, H=2, G=1, D=7, S=1, N=9, C=20),
    Case(B=2, L=20, C=1, N=1, S=20),
]
if DEVICE.type == "cuda":  # more pairs than the kernel for few rows takes
    CASES += [Case(B=2, L=700, H=16, G=1, D=64, S=64, N=8, C=12), Case(B=1, L=1100, H=8, G=2, D=128, S=32, N=8, C=9, Gi=2, Hw=8, off=True)]


class Operands:
    """Random q, k, v, weight (leaves) and index: different chunks a row, some rows with unused slots; nan stands in their weights."""

    def __init__(self, c: Case, dtype: torch.dtype, weight_dtype: torch.dtype | None = None) -> None:
        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(shape, device=DEVICE).to(dtype)

        self.case = c
        keys = c.C * c.S + c.extra
        self.q, self.k, self.v = normal(c.B, c.L, c.H, c.D), normal(c.B, keys, c.G, c.D), normal(c.B, keys, c.G, c.D)
        order = torch.rand(c.B, c.L, c.Gi, max(c.C, c.N), device=DEVICE).argsort(-1)[..., : c.N]
        used = torch.rand(c.B, c.L, c.Gi, 1, device=DEVICE) * 1.5 * c.N > torch.arange(c.N, device=DEVICE)
        self.index = torch.where((order < c.C) & used, order, -1)
        slots = self.index if c.Hw == 1 and c.Gi == 1 else self.index.repeat_interleave(c.Hw // c.Gi if c.Hw >= c.Gi else 1, 2)
        self.weight = torch.rand(c.B, c.L, c.Hw, c.N, device=DEVICE).to(weight_dtype or dtype)
        if slots.shape == self.weight.shape:
            self.weight = self.weight.masked_fill(slots < 0, torch.nan)
        self.grad_o, self.grad_lse = normal(c.B, c.L, c.H, c.D), normal(c.B, c.L, c.H, c.N)
        self.leaves = [self.q, self.k, self.v, self.weight]

    def cast(self, dtype: torch.dtype) -> list[torch.Tensor]:
        return [x.detach().to(dtype).requires_grad_() for x in self.leaves]

    def run(self, leaves: list[torch.Tensor], how: str, dtype: torch.dtype | None = None, lse: bool = True) -> list[torch.Tensor]:
        """Outputs and gradients: o, lse, dq, dk, dv, dweight (lse: False: without the log-sum-exps)."""
        c, (q, k, v, w) = self.case, leaves
        if how == "plain":
            o, found = plain.hsa(q, k, v, self.index, w, c.S, off_by_one=c.off, dtype=dtype)
        elif lse:
            o, found = ops.hsa(q, k, v, self.index, w, c.S, off_by_one=c.off, return_lse=True, check_index=True)
        else:
            o, found = ops.hsa(q, k, v, self.index, w, c.S, off_by_one=c.off), torch.zeros(())
        outputs, cotangents = [o], [self.grad_o.to(o.dtype)]
        if lse:
            outputs, cotangents = [o, found], [*cotangents, self.grad_lse.to(found.dtype)]
        return [*(x.detach() for x in outputs), *torch.autograd.grad(outputs, leaves, cotangents)]


NAMES = ["o", "lse", "gradient of q", "gradient of k", "gradient of v", "gradient of weight"]


class OpsTest(unittest.TestCase):
    def assertNear(self, got: torch.Tensor, exact: torch.Tensor, naive: torch.Tensor, what: str) -> None:
        """max |got - exact| <= 2 max |naive - exact| + a rounding of the result: few numbers of a naive version can be right by chance."""
        self.assertEqual(got.shape, exact.shape, what)
        if got.numel() == 0:
            return
        exact = exact.double()
        error, allowed = float((got.double() - exact).abs().max()), float((naive.double() - exact).abs().max())
        tiny = (1 / 512 if got.dtype == torch.bfloat16 else 1e-6) * float(exact.abs().max()) + 1e-6
        self.assertLessEqual(error, 2 * allowed + tiny, f"{what}: error {error:.3g}, naive {allowed:.3g} (CAIRN_TEST_SEED={SEED})")
