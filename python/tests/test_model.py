"""The network: against the oracle's cases, and against itself in pieces (docs/algorithm.md, section 5)."""

from __future__ import annotations

import json
import tempfile
import unittest
from pathlib import Path

import torch
import torch.nn.functional as F
from support import ORACLE, random_model, random_tokens, relative_rms

import cairn
from cairn import plain
from cairn.checkpoint import read_safetensors, read_weights


def read_case(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """All tensors of a case, with its settings."""
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return read_weights(path), json.loads(header["__metadata__"]["config"])


def layer_text(layer: dict) -> str:
    if layer["type"] == "window":
        return "window"
    text = "memory+window" if layer.get("window") else "memory"
    text += "" if layer.get("mlp", True) else "-mlp"
    return text + ("" if layer.get("retrieval", True) else "-retrieval")


def oracle_model(tensors: dict[str, torch.Tensor], settings: dict) -> cairn.Model:
    values = {name: value for name, value in settings.items() if name not in ("kind", "L", "B", "route", "distill")}
    values["upper"] = [layer_text(layer) for layer in settings["upper"]]
    model = cairn.Model(cairn.ModelConfig.from_dict(values, "case"))
    model.load_state_dict({name[6:]: tensor for name, tensor in tensors.items() if name.startswith("param.")})
    return model


@unittest.skipUnless(ORACLE.is_dir(), f"no oracle cases in {ORACLE}")
class Oracle(unittest.TestCase):
    def test_models(self) -> None:
        cases = sorted(ORACLE.glob("model-*.safetensors"))
        self.assertGreaterEqual(len(cases), 15)
        for path in cases:
            with self.subTest(path.stem):
                tensors, settings = read_case(path)
                model = oracle_model(tensors, settings)
                logits = model(tensors["in.tokens"])
                self.assertLessEqual(relative_rms(logits, tensors["out.logits"]), 1e-5)
                # Read in part, then asked: the same logits.
                text = tensors["in.tokens"]
                memory = model.read(text[:, :29], segment=10)
                rest = torch.cat([model.advance(memory, text[:, 29:40]), model.advance(memory, text[:, 40:])], 1)
                self.assertLessEqual(relative_rms(rest, tensors["out.logits"][:, 29:]), 1e-5)
                if settings["route"] or settings["distill"]:
                    continue
                F.cross_entropy(logits[:, :-1].flatten(0, 1), text[:, 1:].flatten()).backward()
                for name, parameter in model.named_parameters():
                    want = tensors["grad." + name]
                    worst = ((parameter.grad - want).abs() / (1e-4 + 1e-3 * want.abs())).max()
                    self.assertLessEqual(float(worst), 1, name)

    def test_memory_attention(self) -> None:
        cases = sorted(ORACLE.glob("hsa-*.safetensors"))
        self.assertGreaterEqual(len(cases), 5)
        for path in cases:
            with self.subTest(path.stem):
                t, settings = read_case(path)
                size, used = settings["S"], t["in.index"] >= 0
                score = t["in.score"].gather(-1, t["in.index"].clamp(min=0))
                weight = plain.chunk_weights(score, used, settings["weights"])
                for row in range(settings["B"]):
                    k, v = (t[name][row].unflatten(0, (-1, size)) for name in ("in.k", "in.v"))
                    o = plain.memory_attention(
                        t["in.q"][row], t["in.index"][row], k, v, lambda part, lse: weight[row][part], off_by_one=settings["off_by_one"]
                    )
                    self.assertLessEqual(relative_rms(o, t["out.o"][row]), 1e-5)


class Consistency(unittest.TestCase):
    """read() then advance() equals forward() over the whole text, for every switch."""

    SWITCHES = [
        {},
        dict(weights="stick_breaking", landmark="mean", encoder_layers=2, pre_norm=True, positions="alibi"),
        dict(encoder_layers=0, landmark="mean", positions="none", off_by_one=True, retrieval_heads=1),
        dict(rank_decay=True, exclude_window=True, landmark_norm=False),
        dict(retrieval_stride="chunk", upper=["memory", "window", "memory-mlp", "window"]),
        dict(retrieval_stride="chunk", exclude_window=True),
        dict(alpha=0.6, beta=1.0, top_k=4),
        dict(upper=["window", "memory-mlp", "memory-mlp-retrieval"], mlp_width=0, memory_kv_heads=1, retrieval_heads=1),
        dict(upper=["memory"], window=1),
        dict(lower_layers=0),
    ]

    def test_pieces_and_whole(self) -> None:
        for switches in self.SWITCHES:
            with self.subTest(switches):
                model = random_model(**switches)  # type: ignore[arg-type]
                tokens = random_tokens(2, 64)
                with torch.no_grad():
                    whole = model(tokens)
                memory = model.read(tokens[:, :23], segment=6)
                model.read(tokens[:, 23:41], memory, segment=100)
                kept = memory.fork()
                parts = [model.advance(memory, part) for part in tokens[:, 41:].split([1, 1, 9, 1, 11], 1)]
                self.assertLessEqual(relative_rms(torch.cat(parts, 1), whole[:, 41:]), 1e-5)
                self.assertEqual(memory.tokens, 64)
                self.assertLessEqual(relative_rms(model.advance(kept, tokens[:, 41:50]), whole[:, 41:50]), 1e-5)

    def test_memory_matters_and_rows_are_apart(self) -> None:
        model, tokens = random_model(), random_tokens(3, 60)
        with torch.no_grad():
            whole = model(tokens)
            self.assertGreater(relative_rms(model(tokens, use_memory=False)[:, 20:], whole[:, 20:]), 0.01)
            self.assertLessEqual(relative_rms(model(tokens[1:2])[0], whole[1]), 1e-5)
            changed = tokens.clone()
            changed[:, 50:] = 0
            self.assertLessEqual(relative_rms(model(changed)[:, :50], whole[:, :50]), 1e-5)  # causality

    def test_selection_over_pages(self) -> None:
        generator = torch.Generator().manual_seed(3)
        rq = torch.randint(-2, 3, (1, 40, 2, 4), generator=generator).float()  # few values: many ties
        marks = torch.randint(-2, 3, (1, 37, 2, 4), generator=generator).float()
        counts = plain.visible_counts(40, 37, chunk=3, first_position=50, exclude_window=5)
        pages = list(marks.split([1, 20, 16], 1))
        index = plain.select(rq, pages, 4, counts)
        score = torch.einsum("blqr,bcqr->blqc", rq, marks)
        for t in range(40):
            seen = [i for i in range(37) if 50 + t - 5 + 1 > (i + 1) * 3 - 1]
            self.assertEqual(len(seen), int(counts[t]))
            for head in range(2):
                best = sorted(seen, key=lambda i: (-float(score[0, t, head, i]), -i))[:4]
                self.assertEqual([i for i in index[0, t, head].tolist() if i >= 0], sorted(best, reverse=True))

    def test_generate(self) -> None:
        model, tokens = random_model(), random_tokens(1, 30)
        made = model.generate(model.read(tokens[:, :20]), tokens[:, 20:], 5)
        text = tokens
        for _ in range(5):
            text = torch.cat([text, model(text)[:, -1:].argmax(-1)], 1)
        self.assertEqual(made.tolist(), text[:, 30:].tolist())


class Folder(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.model = random_model()

    def save(self, change: dict[str, torch.Tensor | None] | None = None, dtype: str = "F32") -> None:
        """A safetensors file written by hand, so that the test needs no package."""
        header, numbers = {}, b""
        for name, tensor in {**self.model.state_dict(), **(change or {})}.items():
            if tensor is not None:
                raw = tensor.contiguous().numpy().tobytes()
                header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [len(numbers), len(numbers) + len(raw)]}
                numbers += raw
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        (self.folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + numbers)
        (self.folder / "config.json").write_text(self.model.config.to_json())

    def refuse(self, word: str) -> None:
        with self.assertRaises(ValueError) as caught:
            cairn.load_model(self.folder)
        self.assertIn(word, str(caught.exception))
        self.assertIn(str(self.folder), str(caught.exception))

    def test_load(self) -> None:
        self.save()
        loaded, tokens = cairn.load_model(self.folder), random_tokens(1, 33)
        self.assertTrue(torch.equal(loaded(tokens), self.model(tokens)))
        for read in (read_weights, read_safetensors):
            for name, tensor in read(self.folder / "model.safetensors").items():
                self.assertTrue(torch.equal(tensor, self.model.state_dict()[name]), name)

    def test_refusals(self) -> None:
        self.refuse("has no config.json")
        self.save({"norm.weight": None})
        self.refuse("'norm.weight' is missing")
        self.save({"more.weight": torch.ones(2)})
        self.refuse("'more.weight' does not belong")
        self.save({"norm.weight": torch.ones(32)}, dtype="I64")
        self.refuse("model.safetensors")
        self.save({"norm.weight": torch.ones(31)})
        self.refuse("has shape [31]")
        self.save(dtype="Q7")
        self.refuse("model.safetensors")
        self.save()
        config, weights = self.folder / "config.json", self.folder / "model.safetensors"
        whole = weights.read_bytes()
        for damaged in (b"", whole[:5], whole[:100], whole[:-1], b"\xff" * 8 + whole[8:], whole[:8] + b"x" + whole[9:]):
            weights.write_bytes(damaged)
            self.refuse("model.safetensors")
            with self.assertRaises(ValueError):
                read_safetensors(weights)
        weights.write_bytes(whole)
        good = config.read_text()
        for old, new, word in [
            ('"chunk": 5', '"chunk": 0', "chunk"),
            ('"chunk": 5', '"chunk": 5.0', "chunk"),
            ('"chunk": 5', '"chunks": 5', "unknown option 'chunks'"),
            ('"cls"', '"sum"', "landmark"),
            ("memory+window-retrieval", "memory-window", "memory-window"),
            ('"heads": 4', '"heads": 3', "heads"),
            ('"beta": 0.3', '"beta": NaN', "JSON"),
            ('"beta": 0.3', '"beta": 1, "beta": 0', "twice"),
            ("{", "[", "JSON"),
        ]:
            config.write_text(good.replace(old, new, 1))
            self.refuse(word)

    def test_upper_forms(self) -> None:
        layer = cairn.UpperLayer.parse("memory-retrieval+window-mlp")
        self.assertEqual(layer, cairn.UpperLayer(memory=True, window=True, mlp=False, retrieval=False))
        for wrong in ("", "windows", "memory-", "memory-mlp-mlp", "memory+mlp", "Memory"):
            with self.assertRaises(ValueError):
                cairn.UpperLayer.parse(wrong)


if __name__ == "__main__":
    unittest.main()
