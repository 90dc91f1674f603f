"""The compiled operators under torch.library.opcheck, torch.compile, torch.export, torch.autocast and CUDA graphs."""

from __future__ import annotations

import os
import shutil
import unittest

import torch
from ops_support import DEVICE, Case, Operands, OpsTest
from torch._dynamo.testing import CompileCounterWithBackend

from cairn import ops
from cairn.layers import MemoryAttention

SMALL = Case(Gi=2, Hw=4, extra=2)
FAST = Case(L=70, D=64, S=32, H=4, G=1, N=2, C=3)  # what the kernels for GPUs take in bf16


def has_compiler() -> bool:
    return shutil.which(os.environ.get("CXX", "g++")) is not None or shutil.which("c++") is not None


class OpCheck(OpsTest):
    def check(self, op: object, arguments: tuple, keywords: dict | None = None) -> None:
        result = torch.library.opcheck(op, arguments, keywords or {})  # raises with the failure
        self.assertEqual(set(result.values()), {"SUCCESS"})
        self.assertEqual(len(result), 4)

    def test_hsa(self) -> None:
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            for case in (SMALL, FAST):
                x = Operands(case, dtype)
                leaves = [t.nan_to_num(0.5).requires_grad_() for t in x.leaves]
                for keywords in ({}, dict(return_lse=True, off_by_one=True, check_index=True)):
                    with self.subTest(dtype=dtype, case=case, **keywords):
                        self.check(torch.ops.cairn.hsa.default, (*leaves[:3], x.index, leaves[3], case.S), keywords)
        x = Operands(Case(C=0), torch.float32)
        self.check(torch.ops.cairn.hsa.default, (x.q.requires_grad_(), x.k, x.v, x.index, x.weight.nan_to_num(), 4))

    def test_hsa_backward(self) -> None:
        for dtype in (torch.float32, torch.bfloat16):
            for case in (SMALL, FAST):
                x = Operands(case, dtype)
                lse = x.grad_lse.float()
                for grad_lse in (None, lse):
                    with self.subTest(dtype=dtype, case=case, lse=grad_lse is not None):
                        arguments = (x.grad_o, grad_lse, x.q, x.k, x.v, x.index, x.weight.nan_to_num(0.5), case.S)
                        self.check(torch.ops.cairn.hsa_backward.default, arguments)

    def test_select(self) -> None:
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            rq, landmarks = torch.randn(2, 40, 2, 16, device=DEVICE).to(dtype), torch.randn(2, 9, 2, 16, device=DEVICE).to(dtype)
            rq.requires_grad_(), landmarks.requires_grad_()
            for top_k, keywords in ((3, {}), (12, dict(first_position=7, exclude_window=5)), (3, dict(noise_key=9))):
                with self.subTest(dtype=dtype, top_k=top_k, **keywords):
                    self.check(torch.ops.cairn.select.default, (rq, landmarks, top_k, 4), keywords)
            found = ops.select(rq.detach(), landmarks.detach(), 3, 4)
            self.check(
                torch.ops.cairn.select_backward.default, (torch.randn_like(found.scores), rq.detach(), landmarks.detach(), found.indices)
            )


def attend(rq, landmarks, q, k, v, chunk: int, first_position: int = 0):
    """The operators in a chain, as a layer has them."""
    found = ops.select(rq, landmarks, 3, chunk, first_position=first_position)
    o, lse = ops.hsa(q, k, v, found.indices, ops.chunk_weights(found), chunk, return_lse=True)
    return o.float().tanh() + lse.float().sum(-1, keepdim=True) / 100


def chain_operands(rows: int = 70, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    shapes = ((2, rows, 1, 16), (2, 4, 1, 16), (2, rows, 4, 32), (2, 64, 2, 32), (2, 64, 2, 32))
    return [torch.randn(shape, device=DEVICE).to(dtype).requires_grad_() for shape in shapes]


class Compile(OpsTest):
    def setUp(self) -> None:
        torch._dynamo.reset()

    def compare(self, compiled, tolerance: float = 1e-5, dtype: torch.dtype = torch.float32) -> None:
        x = chain_operands(dtype=dtype)
        want, got = attend(*x, 16), compiled(*x, 16)
        torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)
        cotangent = torch.randn_like(want)
        grads = [torch.autograd.grad(y, x, cotangent) for y in (want, got)]
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(b, a, rtol=tolerance, atol=tolerance)

    def test_whole_graph(self) -> None:
        self.compare(torch.compile(attend, fullgraph=True, backend="aot_eager"))

    @unittest.skipUnless(has_compiler() or DEVICE.type == "cuda", "torch.compile needs a C++ compiler")
    def test_inductor(self) -> None:
        self.compare(torch.compile(attend, fullgraph=True), 1e-4)
        if DEVICE.type == "cuda":
            self.compare(torch.compile(attend, fullgraph=True), 3e-2, torch.bfloat16)

    def test_lengths_and_positions_do_not_compile_anew(self) -> None:
        counter = CompileCounterWithBackend("aot_eager")
        compiled = torch.compile(attend, fullgraph=True, backend=counter, dynamic=True)
        for rows, position in ((70, 3), (71, 9), (80, 2**33), (65, 17)):
            x = chain_operands(rows)
            torch.testing.assert_close(compiled(*x, 16, position), attend(*x, 16, position))
        self.assertEqual(counter.frame_count, 1)

    def test_layer(self) -> None:
        layer = MemoryAttention(32, heads=4, kv_heads=2, head_dim=16, chunk=4, top_k=3).to(DEVICE)
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        x = torch.randn(2, 40, 32, device=DEVICE)
        results = []
        for run in (layer, compiled):
            layer.zero_grad()
            y = run(x)
            y.square().sum().backward()
            results.append([y.detach(), *(p.grad.clone() for p in layer.parameters())])
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)

    def test_wrong_shape_in_a_graph(self) -> None:
        x = chain_operands()
        compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
        with self.assertRaisesRegex(Exception, r"cairn::hsa: argument v has shape .*; expected \[B, M, G, D\]"):
            compiled(*x[:4], x[4][:, :63], 16)

    def test_compiled_autograd(self) -> None:
        x = chain_operands()
        want = torch.autograd.grad(attend(*x, 16).sum(), x)
        out = attend(*x, 16).sum()
        with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager", fullgraph=True)):
            got = torch.autograd.grad(out, x)
        for a, b in zip(want, got, strict=True):
            torch.testing.assert_close(b, a)
        # Without the log-sum-exps, and through them alone.
        index = torch.full((2, 70, 1, 1), 1, device=DEVICE)
        weight = torch.ones(2, 70, 1, 1, device=DEVICE)
        for lse in (False, True):
            results = []
            for compiled in (False, True):
                out = torch.ops.cairn.hsa(*x[2:], index, weight, 16, return_lse=lse)[1 if lse else 0].sum()
                if compiled:
                    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager", fullgraph=True)):
                        results.append(torch.autograd.grad(out, x[2:4]))
                else:
                    results.append(torch.autograd.grad(out, x[2:4]))
            for a, b in zip(*results, strict=True):
                torch.testing.assert_close(b, a)

    def test_export(self) -> None:
        layer = MemoryAttention(32, heads=4, head_dim=16, chunk=4, top_k=3).to(DEVICE).eval()
        x = torch.randn(2, 40, 32, device=DEVICE)
        program = torch.export.export(layer, (x,))
        names = {str(node.target) for node in program.graph.nodes}
        self.assertTrue({"cairn.hsa.default", "cairn.select.default"} <= names, names)
        torch.testing.assert_close(program.module()(x), layer(x))

    def test_autocast(self) -> None:
        layer = MemoryAttention(32, heads=4, head_dim=32, chunk=16, top_k=4).to(DEVICE)  # all chunks: no choice between equals
        x = torch.randn(2, 70, 32, device=DEVICE)
        want = layer(x)
        for dtype in (torch.bfloat16, torch.float16):
            with self.subTest(dtype=dtype), torch.autocast(DEVICE.type, dtype=dtype):
                y = layer(x)
            self.assertEqual(y.dtype, dtype)
            torch.testing.assert_close(y.float(), want, rtol=0.1, atol=0.1)
            y.float().sum().backward()
            self.assertEqual(layer.q_proj.weight.grad.dtype, torch.float32)

    @unittest.skipUnless(DEVICE.type == "cuda", "needs a GPU")
    def test_cuda_graph(self) -> None:
        x = [t.detach() for t in chain_operands(dtype=torch.bfloat16)]
        attend(*x, 16)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = attend(*x, 16)
        for tensor in x:
            tensor.copy_(torch.randn_like(tensor))
        graph.replay()
        torch.testing.assert_close(out, attend(*x, 16), rtol=1e-2, atol=1e-2)


if __name__ == "__main__":
    unittest.main()
