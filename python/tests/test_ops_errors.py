"""Wrong arguments: one message that names operator, argument, what came and what is expected; no crash, and the next call works."""

from __future__ import annotations

import unittest

import torch
from ops_support import DEVICE, Case, Operands, OpsTest

from cairn import ops

CASE = Case(B=2, L=6, H=4, G=2, D=8, S=4, N=3, C=5, Gi=2, Hw=4)


def operands(case: Case = CASE, dtype: torch.dtype = torch.float32) -> dict:
    x = Operands(case, dtype)
    return dict(q=x.q, k=x.k, v=x.v, index=x.index, weight=x.weight.nan_to_num(0.5), chunk=case.S)


def selection() -> dict:
    return dict(rq=torch.randn(2, 6, 2, 8, device=DEVICE), landmarks=torch.randn(2, 5, 2, 8, device=DEVICE), top_k=3, chunk=4)


def backward_of_selection() -> dict:
    x = selection()
    scores, indices = ops.select(**x)
    return dict(grad_score=torch.ones_like(scores), rq=x["rq"], landmarks=x["landmarks"], index=indices)


class Errors(OpsTest):
    def refuse(self, call, arguments: dict, kind: type[Exception], message: str, **change: object) -> None:
        with self.subTest(message):
            changed = {name: value(arguments[name]) if callable(value) else value for name, value in change.items()}
            with self.assertRaisesRegex(kind, message):
                call(**{**arguments, **changed})

    def test_shapes(self) -> None:
        refuse = lambda message, **change: self.refuse(ops.hsa, operands(), ValueError, "cairn::hsa: argument " + message, **change)
        refuse(r"q has shape \[2, 6, 4\]; expected 4 dimensions, \[B, L, H, D\]", q=lambda t: t[..., 0])
        refuse(r"k has shape \[1, 20, 2, 8\].*size 2 in dimension 0, that of q", k=lambda t: t[:1], v=lambda t: t[:1])
        refuse(r"k has shape \[2, 20, 2, 7\].*size 8 in dimension 3, that of q", k=lambda t: t[..., 1:], v=lambda t: t[..., 1:])
        refuse(r"k has shape \[2, 20, 3, 8\].*G a divisor of the 4 heads", k=lambda t: t[:, :, [0, 0, 0]])
        refuse(r"k has shape \[2, 20, 0, 8\].*G a divisor", k=lambda t: t[:, :, :0])
        refuse(r"v has shape \[2, 19, 2, 8\].*size 20 in dimension 1, that of k", v=lambda t: t[:, 1:])
        refuse(r"q has shape \[2, 6, 0, 8\].*at least 1 head of width 1", q=lambda t: t[:, :, :0])
        refuse(r"index has shape \[2, 5, 2, 3\].*size 6 in dimension 1, that of q", index=lambda t: t[:, 1:])
        refuse(r"index has shape \[2, 6, 4, 3\].*with 1 or 2 \(the key/value heads", index=lambda t: t[:, :, [0, 0, 1, 1]])
        refuse(r"weight has shape \[2, 6, 4, 2\].*size 3 in dimension 3, that of index", weight=lambda t: t[..., 1:])
        refuse(r"weight has shape \[2, 6, 3, 3\].*with 1, 2 or 4 in dimension 2", weight=lambda t: t[:, :, 1:])
        refuse(r"chunk is 0; expected the tokens of a chunk, at least 1", chunk=0)
        refuse(r"chunk is -3", chunk=-3)

    def test_dtypes(self) -> None:
        refuse = lambda message, **change: self.refuse(ops.hsa, operands(), TypeError, "cairn::hsa: argument " + message, **change)
        half = lambda t: t.half()
        refuse("q has dtype Half; expected float32, bfloat16 or float64", q=half, k=half, v=half)
        refuse("k has dtype BFloat16; expected Float, that of q", k=lambda t: t.bfloat16())
        refuse("v has dtype Double; expected Float, that of q", v=lambda t: t.double())
        refuse("index has dtype Int; expected int64", index=lambda t: t.int())
        refuse("weight has dtype Double; expected Float or Float, that of q", weight=lambda t: t.double())
        refuse("q has dtype Long", q=lambda t: t.long())

    def test_devices(self) -> None:
        for name in ("k", "v", "index", "weight"):
            if DEVICE.type == "cuda":
                self.refuse(
                    ops.hsa,
                    operands(),
                    ValueError,
                    f"argument {name} is on cpu; expected cuda:0, the device of q",
                    **{name: lambda t: t.cpu()},
                )
        if DEVICE.type == "cuda":
            self.refuse(ops.select, selection(), ValueError, "argument landmarks is on cpu; expected cuda:0", landmarks=lambda t: t.cpu())
            x, y = operands(), backward_of_selection()
            with self.assertRaisesRegex(ValueError, "cairn::hsa_backward: argument grad_o is on cpu; expected cuda:0, the device of q"):
                torch.ops.cairn.hsa_backward(x["q"].cpu(), None, *x.values())
            with self.assertRaisesRegex(ValueError, "cairn::hsa_backward: argument grad_lse is on cpu; expected cuda:0"):
                torch.ops.cairn.hsa_backward(x["q"], torch.zeros(2, 6, 4, 3), *x.values())
            for name in ("grad_score", "index"):
                with self.assertRaisesRegex(ValueError, f"cairn::select_backward: argument {name} is on cpu; expected cuda:0, the device of rq"):
                    torch.ops.cairn.select_backward(**{**y, name: y[name].cpu()})

    def test_indices(self) -> None:
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            for case in (CASE, Case(L=70, D=64, S=32, H=4, G=1, N=2, C=3)):
                bad = operands(case, dtype)
                bad["index"][1, 3, 0, 0] = case.C
                call = lambda bad=bad: ops.hsa(**bad, check_index=True)
                with self.assertRaisesRegex(ValueError, f"cairn::hsa: argument index holds chunk {case.C}, but there are {case.C} chunks"):
                    call()
                if DEVICE.type == "cpu":
                    with self.assertRaisesRegex(ValueError, f"argument index holds {case.C}; expected chunk numbers below {case.C}"):
                        ops.hsa(**bad)
                    with self.assertRaisesRegex(ValueError, "cairn::hsa_backward: argument index holds"):
                        torch.ops.cairn.hsa_backward(torch.zeros_like(bad["q"]), None, *bad.values())
                else:  # an unused slot, and the GPU goes on
                    good = dict(bad, index=torch.where(bad["index"] == case.C, -1, bad["index"]))
                    self.assertTrue(torch.equal(ops.hsa(**bad), ops.hsa(**good)))
                    torch.cuda.synchronize()
                bad["index"][1, 3, 0, 0] = -2
                with self.assertRaisesRegex(ValueError, "argument index holds -2"):
                    call()
                bad["index"][1, 3, 0] = -1
                bad["index"][1, 3, 0, :2] = 1
                with self.assertRaisesRegex(ValueError, r"names chunk 1 twice in row \[b 1, t 3, group 0\]"):
                    call()
                bad["index"][1, 3, 0, :2] = torch.tensor([2, 0])
                call()

    def test_too_few_keys(self) -> None:
        """C = 0: any chunk number is one too many."""
        bad = operands()
        bad.update(k=bad["k"][:, :3], v=bad["v"][:, :3], index=bad["index"].clamp(min=0))
        with self.assertRaisesRegex(ValueError, "there are 0 chunks"):
            ops.hsa(**bad, check_index=True)

    def test_backward(self) -> None:
        x = operands()
        back = lambda grad_o, grad_lse, **rest: torch.ops.cairn.hsa_backward(grad_o, grad_lse, **rest)
        for grad_o, grad_lse, message in (
            (x["q"][:, 1:], None, r"argument grad_o has shape \[2, 5, 4, 8\].*size 6 in dimension 1, that of q"),
            (x["q"], x["weight"][..., 1:], r"argument grad_lse has shape \[2, 6, 4, 2\].*size 3 in dimension 3, that of index"),
        ):
            with self.assertRaisesRegex(ValueError, "cairn::hsa_backward: " + message):
                back(grad_o, grad_lse, **x)
        with self.assertRaisesRegex(TypeError, "argument grad_o has dtype Long"):
            back(x["q"].long(), None, **x)

    def test_select(self) -> None:
        refuse = lambda message, kind=ValueError, **change: self.refuse(
            ops.select, selection(), kind, "cairn::select: argument " + message, **change
        )
        refuse(r"rq has shape \[2, 6, 2\]; expected 4 dimensions, \[B, L, Q, Dr\]", rq=lambda t: t[..., 0])
        refuse(r"landmarks has shape \[1, 5, 2, 8\].*size 2 in dimension 0, that of rq", landmarks=lambda t: t[:1])
        refuse(r"landmarks has shape \[2, 5, 1, 8\].*size 2 in dimension 2", landmarks=lambda t: t[:, :, :1])
        refuse(r"landmarks has shape \[2, 5, 2, 7\].*size 8 in dimension 3", landmarks=lambda t: t[..., 1:])
        refuse(r"rq has shape \[2, 6, 2, 0\].*at least 1 head of width 1", rq=lambda t: t[..., :0])
        refuse("top_k is 0; expected 1 or more chunks", top_k=0)
        refuse("chunk is 0; expected", chunk=0)
        refuse("first_position is -2; expected the position of row 0", first_position=-2)
        refuse("first_chunk is -1", first_chunk=-1)
        refuse("exclude_window is -1", exclude_window=-1)
        refuse("rq has dtype Half; expected", TypeError, rq=lambda t: t.half())
        refuse("landmarks has dtype Long; expected Float or BFloat16", TypeError, landmarks=lambda t: t.long())
        refuse("landmarks has dtype Float; expected Double, that of rq", TypeError, rq=lambda t: t.double())

    def test_select_backward(self) -> None:
        refuse = lambda message, kind=ValueError, **change: self.refuse(
            torch.ops.cairn.select_backward, backward_of_selection(), kind, "cairn::select_backward: argument " + message, **change
        )
        refuse(r"grad_score has shape \[2, 6, 2\]; expected 4 dimensions, \[B, L, Q, N\]", grad_score=lambda t: t[..., 0])
        refuse(r"grad_score has shape \[2, 6, 2, 2\].*size 3 in dimension 3, that of index", grad_score=lambda t: t[..., 1:])
        refuse(r"index has shape \[2, 5, 2, 3\].*size 6 in dimension 1, that of rq", index=lambda t: t[:, 1:])
        refuse(r"landmarks has shape \[2, 5, 1, 8\].*size 2 in dimension 2, that of rq", landmarks=lambda t: t[:, :, :1])
        refuse("grad_score has dtype Long; expected Float", TypeError, grad_score=lambda t: t.long())
        refuse("index has dtype Int; expected int64", TypeError, index=lambda t: t.int())
        refuse("landmarks has dtype Half; expected Float or BFloat16", TypeError, landmarks=lambda t: t.half())
        # A number that is no chunk counts as an unused slot.
        x = backward_of_selection()
        good = torch.ops.cairn.select_backward(**x)
        unused = torch.where(x["index"] == 2, -1, x["index"])
        for wrong in (5, 2**40, -7):
            far = torch.where(x["index"] == 2, wrong, x["index"])
            for a, b in zip(
                torch.ops.cairn.select_backward(**{**x, "index": far}), torch.ops.cairn.select_backward(**{**x, "index": unused}), strict=True
            ):
                self.assertTrue(torch.equal(a, b))
        self.assertEqual(good[0].shape, x["rq"].shape)

    def test_memory_that_is_not_there(self) -> None:
        """The error says which operator; the next call works."""
        for dtype in (torch.float32, torch.bfloat16):
            x = operands(dtype=dtype)
            far = dict(x, k=x["k"][:, :1].expand(-1, 2**50, -1, -1), v=x["v"][:, :1].expand(-1, 2**50, -1, -1))
            pattern = r"cairn::hsa with q \[2, 6, 4, 8\], k \[2, 1125899906842624, 2, 8\], index \[2, 6, 2, 3\], chunk 4"
            with self.assertRaisesRegex(RuntimeError, pattern):
                ops.hsa(**far)
            ops.hsa(**x)

    @unittest.skipUnless(DEVICE.type == "cuda", "of a GPU's memory")
    def test_memory_ends_anywhere(self) -> None:
        """Wherever an operator runs out of memory, workspace included: OutOfMemoryError names it, and the next call is right."""
        total = torch.cuda.mem_get_info()[1]
        x = operands(Case(B=1, L=20000, H=16, G=1, D=64, S=64, N=8, C=80), torch.bfloat16)
        x.update({f"select {n}": torch.randn(1, n, 1, 256, device=DEVICE).bfloat16() for n in (60000, 700)})
        # Into pieces of memory of their own: what is left of larger ones would be taken by the call.
        x = {name: value.cpu() if isinstance(value, torch.Tensor) else value for name, value in x.items()}
        torch.cuda.empty_cache()
        x = {name: value.to(DEVICE) if isinstance(value, torch.Tensor) else value for name, value in x.items()}
        rq, landmarks = x.pop("select 60000"), x.pop("select 700")
        calls = {
            "cairn::hsa with": lambda: [ops.hsa(**x)],
            "cairn::hsa_backward with": lambda: list(torch.ops.cairn.hsa_backward(x["q"], None, *x.values()))[:1],
            "cairn::select with": lambda: list(ops.select(rq, landmarks, 100, 16)),
        }

        def on_cpu(call) -> list[torch.Tensor]:  # nothing of it stays on the GPU: it would hold pieces that have room for the next call
            return [t.cpu() for t in call()]

        for name, call in calls.items():
            want, failed = on_cpu(call), 0
            for spare in (0, 32, 128, 512, 2048):
                with self.subTest(name=name, spare=spare):
                    torch.cuda.synchronize()
                    torch.cuda.empty_cache()
                    torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_reserved() + spare * 2**20) / total))
                    got = None
                    try:
                        got = on_cpu(call)
                    except torch.OutOfMemoryError as error:
                        failed += 1
                        self.assertIn(name, str(error))
                    finally:
                        torch.cuda.set_per_process_memory_fraction(1.0)
                    for a, b in zip(got or on_cpu(call), want, strict=True):
                        self.assertTrue(torch.equal(a, b))
                if got is not None:
                    break
            self.assertGreater(failed, 0, name)

    def test_one_token_and_nothing_visible(self) -> None:
        """The smallest of each size is no error: one token, one chunk, one head; a row that sees nothing; empty batches of landmarks."""
        for dtype in (torch.float32, torch.bfloat16):
            x = operands(Case(B=1, L=1, H=1, G=1, D=32, S=16, N=1, C=1), dtype)
            x["index"].fill_(-1)
            self.assertFalse(ops.hsa(**x, check_index=True).any())
            x["index"].fill_(0)
            x["weight"].fill_(1)
            self.assertTrue(ops.hsa(**x, check_index=True).any())
            rq, landmarks = torch.randn(1, 1, 1, 16, device=DEVICE).to(dtype), torch.randn(1, 1, 1, 16, device=DEVICE).to(dtype)
            for position, found in ((0, -1), (15, -1), (16, 0)):
                scores, indices = ops.select(rq, landmarks, 3, 16, first_position=position)
                self.assertEqual(indices.flatten().tolist(), [found, -1, -1])
                self.assertEqual(bool(scores.any()), found == 0)
            for none in (rq[:0], rq[:, :0]):
                self.assertEqual(ops.select(none, landmarks[: len(none)], 3, 16).indices.shape, (*none.shape[:3], 3))
            self.assertTrue((ops.select(rq, landmarks[:, :0], 3, 16, first_position=99).indices == -1).all())

    def test_no_tensor(self) -> None:
        for call in (lambda: ops.hsa(1, 2, 3, 4, 5, 6), lambda: ops.select(None, None, 1, 1)):  # type: ignore[arg-type]
            with self.assertRaises((RuntimeError, TypeError)):
                call()


if __name__ == "__main__":
    unittest.main()
