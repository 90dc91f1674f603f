"""The compiled operators against plain PyTorch: values, gradients, edges."""

from __future__ import annotations

import shutil
import tempfile
import threading
import unittest
from functools import partial
from pathlib import Path

import torch
from ops_support import CASES, DEVICE, NAMES, SEED, Case, Operands, OpsTest

from cairn import _library, ops, plain
from cairn.layers import ChunkMemory, MemoryAttention


class MemoryAttentionOperator(OpsTest):
    def compare(self, dtype: torch.dtype, exact: torch.dtype, weight_dtype: torch.dtype | None = None, lse: bool = True) -> None:
        for case in CASES:
            with self.subTest(case=case):
                x = Operands(case, dtype, weight_dtype)
                want = x.run(x.cast(exact), "plain", lse=lse)
                naive = x.run(x.cast(dtype), "plain", dtype=dtype, lse=lse)
                leaves = [t.detach().requires_grad_() for t in x.leaves]
                got = x.run(leaves, "ops", lse=lse)
                self.assertEqual(got[0].dtype, dtype)
                for tensor, gradient in zip(leaves, got[-4:], strict=True):
                    self.assertEqual(gradient.dtype, tensor.dtype)
                names = NAMES if lse else [NAMES[0], *NAMES[2:]]
                for name, a, b, c in zip(names, got, want, naive, strict=True):
                    self.assertNear(a, b, c, name)

    def test_fp32(self) -> None:
        self.compare(torch.float32, torch.float64)

    def test_bf16(self) -> None:
        self.compare(torch.bfloat16, torch.float32)
        self.compare(torch.bfloat16, torch.float32, lse=False)

    def test_bf16_with_fp32_weights(self) -> None:
        self.compare(torch.bfloat16, torch.float32, torch.float32, lse=False)

    def test_fp64_and_finite_differences(self) -> None:
        self.compare(torch.float64, torch.float64)
        for case in (
            Case(B=1, L=4, H=2, G=1, D=3, S=2, N=2, C=3),
            Case(B=1, L=3, H=2, G=2, D=2, S=2, N=2, C=3, Gi=2, Hw=2, off=True, extra=1),
        ):
            x = Operands(case, torch.float64)
            leaves = [t.nan_to_num(0.5) for t in x.cast(torch.float64)]
            leaves = [t.detach().requires_grad_() for t in leaves]

            def run(q, k, v, w, case=case, index=x.index):
                return ops.hsa(q, k, v, index, w, case.S, off_by_one=case.off, return_lse=True)

            self.assertTrue(torch.autograd.gradcheck(run, leaves))

    def test_strides(self) -> None:
        """Views of every kind give what copies give."""
        for dtype in (torch.float32, torch.bfloat16):
            x = Operands(Case(B=2, L=70, H=4, G=2, D=32, S=16, N=3, C=4, Gi=2, Hw=2), dtype)
            with torch.no_grad():
                views = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in x.leaves]
                views[1] = torch.cat([x.k, x.v], -1)[..., :32]
                views[2] = x.v.flip(1).clone(memory_format=torch.contiguous_format).flip(1)
                index = x.index.transpose(0, 3).contiguous().transpose(0, 3)
                want = ops.hsa(*x.leaves[:3], x.index, x.leaves[3], 16)
                got = ops.hsa(*views[:3], index, views[3], 16)
                self.assertTrue(torch.equal(got, want))
                one = ops.hsa(x.q, x.k[:1].expand(2, -1, -1, -1), x.v[:1].expand(2, -1, -1, -1), x.index, x.weight, 16)
                two = ops.hsa(x.q, x.k[:1].repeat(2, 1, 1, 1), x.v[:1].repeat(2, 1, 1, 1), x.index, x.weight, 16)
                self.assertTrue(torch.equal(one, two))

    def test_nothing_to_do(self) -> None:
        """Empty batches, L = 0, N = 0, C = 0, no visible chunk: zeros, with gradients."""
        for case in (Case(B=0), Case(L=0), Case(N=0), Case(C=0), Case(C=0, extra=3), Case(B=0, L=0, N=0, C=0)):
            for dtype in (torch.float32, torch.bfloat16, torch.float64):
                with self.subTest(case=case, dtype=dtype):
                    x = Operands(case, dtype)
                    leaves = [t.detach().requires_grad_() for t in x.leaves]
                    got = x.run(leaves, "ops")
                    self.assertEqual(got[0].shape, x.q.shape)
                    self.assertEqual(got[1].shape, (case.B, case.L, case.H, case.N))
                    for tensor, result in zip([x.q, got[1], *leaves], got, strict=True):
                        self.assertEqual(result.shape, tensor.shape)
                        self.assertFalse(result.any())
        x = Operands(Case(D=64, S=16, L=40), torch.bfloat16)
        x.index.fill_(-1)
        o, lse = ops.hsa(x.q, x.k, x.v, x.index, x.weight, 16, return_lse=True, check_index=True)
        self.assertFalse(o.any() or lse.any())

    def test_gradient_only_where_wanted(self) -> None:
        x = Operands(CASES[0], torch.float32)
        with torch.no_grad():
            x.q.requires_grad_()
            self.assertFalse(ops.hsa(x.q, x.k, x.v, x.index, x.weight, 4).requires_grad)
        with torch.inference_mode():
            ops.hsa(x.q, x.k, x.v, x.index, x.weight, 4)
        o, lse = ops.hsa(x.q, x.k, x.v, x.index, x.weight, 4, return_lse=True)
        self.assertTrue(o.requires_grad and lse.requires_grad)
        (only_lse,) = torch.autograd.grad(lse, x.q, torch.ones_like(lse))
        wanted = x.q.detach().requires_grad_()
        lse = plain.hsa(wanted, x.k, x.v, x.index, x.weight, 4)[1]
        (want,) = torch.autograd.grad(lse, wanted, torch.ones_like(lse))
        torch.testing.assert_close(only_lse, want)

    def test_second_derivative_is_refused(self) -> None:
        x = Operands(CASES[0], torch.float32)
        q = x.q.requires_grad_()
        (grad,) = torch.autograd.grad(ops.hsa(q, x.k, x.v, x.index, x.weight.nan_to_num(), 4).sum(), q, create_graph=True)
        with self.assertRaisesRegex(NotImplementedError, "cairn::hsa: it has no second derivative"):
            grad.sum().backward()

    def test_threads(self) -> None:
        """Several Python threads at once give what one gives."""
        x = Operands(CASES[2], torch.float32)
        want = ops.hsa(x.q, x.k, x.v, x.index, x.weight, 64)
        results: list[torch.Tensor] = []
        run = lambda: results.append(ops.hsa(x.q, x.k, x.v, x.index, x.weight, 64))
        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(len(results), 4)
        for result in results:
            self.assertTrue(torch.equal(result, want))


class SelectOperator(OpsTest):
    # B, L, Q, Dr, C, top_k, chunk, further arguments
    SHAPES = (
        (2, 40, 1, 16, 9, 3, 4, {}),
        (1, 7, 2, 64, 50, 8, 4, dict(first_position=190)),
        (1, 300, 2, 64, 40, 8, 8, dict(exclude_window=20)),
        (1, 64, 1, 64, 700, 16, 2, dict(first_position=2**40, first_chunk=2**39 - 650)),
        (2, 5, 1, 16, 3, 8, 4, dict(first_position=-1)),
        (3, 1, 1, 4, 6, 6, 1, dict(first_position=4)),
        (1, 40, 1, 16, 0, 3, 4, {}),
        (1, 0, 1, 16, 4, 3, 4, {}),
        (0, 5, 1, 16, 4, 3, 4, {}),
    )

    def numbers(self, *shape: int) -> torch.Tensor:
        """Small whole numbers: scores are exact in any order of summation, and there are ties."""
        return torch.randint(-2, 3, shape, device=DEVICE).float()

    def test_exact_choice(self) -> None:
        for B, L, Q, D, C, top_k, chunk, rest in self.SHAPES:
            for dtype in (torch.float32, torch.bfloat16, torch.float64):
                with self.subTest(B=B, L=L, Q=Q, C=C, dtype=dtype, seed=SEED, **rest):
                    rq, landmarks = self.numbers(B, L, Q, D).to(dtype), self.numbers(B, C, Q, D).to(dtype)
                    scores, indices = ops.select(rq, landmarks, top_k, chunk, **rest)
                    want_scores, want_indices = plain.select_dense(rq, landmarks, top_k, chunk, **rest)
                    self.assertEqual(indices.dtype, torch.int64)
                    self.assertTrue(torch.equal(indices, want_indices))
                    self.assertEqual(scores.dtype, want_scores.dtype)
                    torch.testing.assert_close(scores, want_scores, rtol=1e-6, atol=1e-6)

    def test_strides(self) -> None:
        """Views of every kind give what copies give: one row, few and many."""
        for L in (1, 6, 90):
            for dtype in (torch.float32, torch.bfloat16):
                rq, landmarks = self.numbers(2, L, 2, 64).to(dtype), self.numbers(2, 40, 2, 64).to(dtype)
                want = ops.select(rq, landmarks, 5, 4, first_position=140)
                flipped = lambda t: t.flip(3).contiguous().flip(3)
                odd = lambda t: torch.cat([t[..., :3], t], -1)[..., 3:]
                across = lambda t: t.transpose(1, 3).contiguous().transpose(1, 3)
                heads = lambda t: t.transpose(1, 2).contiguous().transpose(1, 2)
                for a in (flipped, odd, across, heads):
                    for b in (flipped, odd, across, heads):
                        got = ops.select(a(rq), b(landmarks), 5, 4, first_position=140)
                        self.assertTrue(torch.equal(got.indices, want.indices))
                        torch.testing.assert_close(got.scores, want.scores, rtol=1e-6, atol=1e-6)
                one = ops.select(rq, landmarks[:1].expand(2, -1, -1, -1), 5, 4, first_position=140)
                two = ops.select(rq, landmarks[:1].repeat(2, 1, 1, 1), 5, 4, first_position=140)
                self.assertTrue(torch.equal(one.indices, two.indices))

    def test_gradients(self) -> None:
        for B, L, Q, D, C, top_k, chunk, rest in self.SHAPES:
            for dtype in (torch.float32, torch.bfloat16):
                with self.subTest(B=B, L=L, Q=Q, C=C, dtype=dtype, seed=SEED, **rest):
                    rq, landmarks = self.numbers(B, L, Q, D), self.numbers(B, C, Q, D)
                    cotangent = torch.randn(B, L, Q, top_k, device=DEVICE)

                    def run(how, work, rq=rq, landmarks=landmarks, cotangent=cotangent, top_k=top_k, chunk=chunk, rest=rest):
                        a, b = rq.to(work).requires_grad_(), landmarks.to(work).requires_grad_()
                        scores = how(a, b, top_k, chunk, **rest)[0]
                        if not scores.requires_grad:  # C = 0: the plain statement makes zeros of nothing
                            return [torch.zeros_like(a), torch.zeros_like(b)]
                        return torch.autograd.grad(scores, [a, b], cotangent.to(scores.dtype), materialize_grads=True)

                    naive = run(partial(plain.select_dense, dtype=dtype), dtype)
                    got, want = run(ops.select, dtype), run(plain.select_dense, torch.float64)
                    for name, a, b, c in zip(("rq", "landmarks"), got, want, naive, strict=True):
                        self.assertEqual(a.dtype, dtype)
                        self.assertNear(a, b, c, f"gradient of {name}")

    def test_finite_differences(self) -> None:
        rq, landmarks = (torch.randn(1, n, 2, 3, dtype=torch.float64, device=DEVICE, requires_grad=True) for n in (6, 4))
        self.assertTrue(torch.autograd.gradcheck(lambda a, b: ops.select(a, b, 2, 2, first_position=3).scores, (rq, landmarks)))

    def test_noise(self) -> None:
        """A function of the key; the choice alone changes, and no row sees more than it should."""
        rq, landmarks = torch.randn(2, 64, 1, 16, device=DEVICE), torch.randn(2, 16, 1, 16, device=DEVICE)
        clean = ops.select(rq, landmarks, 3, 4)
        one, same, other = (ops.select(rq, landmarks, 3, 4, noise_key=key) for key in (5, 5, 6))
        self.assertTrue(torch.equal(one.indices, same.indices))
        self.assertFalse(torch.equal(one.indices, other.indices))
        self.assertFalse(torch.equal(one.indices, clean.indices))
        row = torch.arange(64, device=DEVICE)[:, None, None]
        self.assertTrue(((one.indices + 1) * 4 <= row).logical_or(one.indices < 0).all())
        all_scores = torch.einsum("blqr,bcqr->blqc", rq, landmarks) / 4
        used = one.indices >= 0
        torch.testing.assert_close(one.scores, all_scores.gather(-1, one.indices.clamp(min=0)).where(used, 0), rtol=1e-4, atol=1e-5)

    def test_weights(self) -> None:
        found = ops.select(torch.randn(1, 30, 1, 8, device=DEVICE), torch.randn(1, 7, 1, 8, device=DEVICE), 4, 4)
        used = found.indices >= 0
        soft, stick = ops.chunk_weights(found), ops.chunk_weights(found, "stick_breaking")
        self.assertFalse(soft[~used].any() or stick[~used].any())
        torch.testing.assert_close(soft.sum(-1), used.any(-1).float())
        sigma = torch.sigmoid(found.scores)
        left = torch.cumprod(torch.where(used, 1 - sigma, 1), -1)
        torch.testing.assert_close(stick.sum(-1), 1 - left[..., -1])
        with self.assertRaisesRegex(ValueError, "'softmax' or 'stick_breaking'"):
            ops.chunk_weights(found, "sum")  # type: ignore[arg-type]


class Layer(OpsTest):
    def test_all_chunks_of_one_softmax_each(self) -> None:
        """Against the layer's equations written with torch's own attention, a chunk at a time."""
        layer = MemoryAttention(32, heads=4, kv_heads=2, head_dim=8, chunk=4, top_k=99, retrieval_heads=2).to(DEVICE)
        x = torch.randn(2, 30, 32, device=DEVICE)
        memory = layer.memory(x)
        rq = plain.head_rms_norm(layer.retrieval_proj(x), layer.retrieval_norm, 2).unflatten(-1, (2, -1))
        q = plain.rms_norm(layer.q_proj(x).unflatten(-1, (4, 8)), layer.q_norm)
        score = torch.einsum("blqr,bcqr->blqc", rq, memory.landmarks) / 8**0.5
        seen = torch.arange(30, device=DEVICE)[:, None] >= (torch.arange(7, device=DEVICE) + 1) * 4
        weight = score.masked_fill(~seen[:, None], -1e30).softmax(-1).where(seen[:, None], 0).repeat_interleave(2, 2)
        parts = []
        for i in range(7):
            k, v = (t[:, 4 * i : 4 * i + 4] for t in (memory.keys, memory.values))
            parts.append(plain.attend_full(q, k, v))
        want = layer.o_proj((torch.stack(parts, -1) * weight[:, :, :, None]).sum(-1).flatten(2))
        torch.testing.assert_close(layer(x), want, rtol=1e-4, atol=1e-5)

    def test_causal_and_continued(self) -> None:
        layer = MemoryAttention(32, heads=4, head_dim=16, chunk=4, top_k=3, weights="stick_breaking", off_by_one=True).to(DEVICE)
        x = torch.randn(1, 40, 32, device=DEVICE)
        changed = x.clone()
        changed[:, 24:] = torch.randn(1, 16, 32, device=DEVICE)
        whole = layer(x)
        torch.testing.assert_close(layer(changed)[:, :24], whole[:, :24])
        self.assertFalse(whole[:, :4].any())
        torch.testing.assert_close(layer(x[:, 30:], layer.memory(x), first_position=30), whole[:, 30:])
        self.assertIsInstance(layer.memory(x), ChunkMemory)

    def test_every_parameter_learns(self) -> None:
        layer = MemoryAttention(32, heads=4, kv_heads=2, head_dim=16, chunk=4, top_k=3).to(DEVICE)
        x = torch.randn(2, 40, 32, device=DEVICE, requires_grad=True)
        layer(x).square().sum().backward()
        for name, parameter in [*layer.named_parameters(), ("x", x)]:
            self.assertGreater(float(parameter.grad.abs().max()), 0, name)

    def test_wrong_sizes(self) -> None:
        for wrong in (
            dict(heads=3, kv_heads=2),
            dict(retrieval_heads=2),
            dict(kv_heads=2, retrieval_heads=2, retrieval_dim=5),
            dict(chunk=0),
        ):
            with self.assertRaisesRegex(ValueError, "MemoryAttention: "):
                MemoryAttention(32, **wrong)
        with self.assertRaisesRegex(ValueError, r"expected \[B, L, 32\]"):
            MemoryAttention(32)(torch.randn(1, 8, 31))


class Library(unittest.TestCase):
    def test_a_second_copy_does_no_harm(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "another.so"
            shutil.copy(_library.places()[0], copy)
            torch.ops.load_library(copy)
            torch.ops.load_library(_library.places()[0])
        self.assertEqual(_library.load(), ops.BUILD)
        x = Operands(CASES[0], torch.float32)
        self.assertEqual(ops.hsa(x.q, x.k, x.v, x.index, x.weight, 4).shape, x.q.shape)

    def test_versions(self) -> None:
        path = Path("lib.so")
        built = {"cairn": "1", "torch": "2.11.0", "cuda": "none"}
        _library.check_build(built, path, "2.11.0", None)
        _library.check_build(built, path, "2.11.0+cu130", "13.0")
        with self.assertRaisesRegex(ImportError, r"lib.so was built for torch 2.11.0, but this is torch 2.10.1\+cpu.*Install torch 2.11.0"):
            _library.check_build(built, path, "2.10.1+cpu", None)
        built["cuda"] = "13.0.88"
        _library.check_build(built, path, "2.11.0+cu130", "13.0")
        with self.assertRaisesRegex(ImportError, "CUDA 13.0.88, but this torch .* has no CUDA. Install .*make wheel"):
            _library.check_build(built, path, "2.11.0+cpu", None)
        with self.assertRaisesRegex(ImportError, "is for CUDA 12.8"):
            _library.check_build(built, path, "2.11.0+cu128", "12.8")

    def test_no_library_of_ours(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "libcairn_torch.so"
            file.write_bytes(b"\x7fELF something else")
            with self.assertRaisesRegex(ImportError, "is no libcairn_torch.so of Cairn"):
                _library.read_build(file)


if __name__ == "__main__":
    unittest.main()
