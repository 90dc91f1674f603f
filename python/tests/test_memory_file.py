"""Memory files written here by docs/formats.md: what is read, and that damage never gets through."""

from __future__ import annotations

import contextlib
import copy
import fcntl
import io
import runpy
import struct
import tempfile
import unittest
import warnings
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch
from support import ROOT, Extents, hash_of, memory_root, random_model, random_tokens, relative_rms, xxhash

import cairn
from cairn import extent_file


class MemoryFiles(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "book.memory"
        warnings.simplefilter("ignore" if xxhash is None else "error")
        self.addCleanup(warnings.resetwarnings)
        self.model = random_model()
        self.model.fingerprint = "0123456789abcdef"
        self.tokens = random_tokens(1, 70)

    def write(self, length: int = 58, compute: str = "fp32") -> dict:
        self.extents = Extents()
        memory = self.model.read(self.tokens[:, :length])
        root = memory_root(self.extents, self.model, memory, self.tokens[:, :length], compute)
        self.extents.save(self.path, root)
        return root

    def refuse(self, word: str) -> None:
        with self.assertRaises(ValueError) as caught, cairn.open_memory(self.path) as file:
            file.state(self.model)
        self.assertIn(word, str(caught.exception))
        self.assertIn(str(self.path), str(caught.exception))

    def test_asking_goes_on_exactly(self) -> None:
        with torch.no_grad():
            whole = self.model(self.tokens)
        for length in (1, 4, 5, 12, 58, 60):  # before the first chunk, at chunk ends, shorter and longer than the window and the tail
            with self.subTest(length):
                self.write(length)
                with cairn.open_memory(self.path) as file:
                    self.assertEqual((file.tokens, file.chunks), (length, length // 5))
                    memory = file.state(self.model)
                    logits = self.model.advance(memory, self.tokens[:, length:])
                    self.assertLessEqual(relative_rms(logits, whole[:, length:]), 1e-5)
                    self.assertEqual(memory.tokens, 70)
                    again = self.model.advance(file.state(self.model), self.tokens[:, length:])
                    self.assertTrue(torch.equal(again, logits))  # the first asking has changed nothing in the file

    def test_selected_chunks(self) -> None:
        self.write()
        with cairn.open_memory(self.path) as file:
            selected: list[torch.Tensor] = []
            self.model.advance(file.state(self.model), self.tokens[:, 58:], selected)
        whole: list[torch.Tensor] = []
        self.model.advance(self.model.read(self.tokens[:, :0]), self.tokens, whole)
        self.assertEqual([list(index.shape) for index in selected], [[1, 12, 2, 3]])
        self.assertTrue(torch.equal(selected[0], whole[0][:, 58:]))

    def test_example(self) -> None:
        """python/examples/read_memory.py on a small model."""
        self.write()
        example = ROOT / "python" / "examples" / "read_memory.py"
        with (
            mock.patch("cairn.load_model", return_value=self.model),
            mock.patch("sys.argv", [str(example), "model", str(self.path), "7", "8", "9", "--count", "3"]),
        ):
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                runpy.run_path(str(example), run_name="__main__")
        self.assertIn("58 tokens in 11 chunks of 5, fp32", said.getvalue())
        self.assertIn("(second.txt)", said.getvalue())
        made = self.model.generate(self.model.read(self.tokens[:, :58]), torch.tensor([[7, 8, 9]]), 3)
        self.assertIn("answer: " + " ".join(map(str, made[0].tolist())), said.getvalue())

    def test_half_precision(self) -> None:
        self.write(compute="bf16")
        memory = self.model.read(self.tokens[:, :58])
        half = lambda x: x.bfloat16().float()
        memory.pages = [cairn.Page(half(page.landmarks), half(page.k), half(page.v)) for page in memory.pages]
        memory.lower = [replace(cache, k=half(cache.k), v=half(cache.v)) for cache in memory.lower]
        with cairn.open_memory(self.path) as file:
            logits = self.model.advance(file.state(self.model), self.tokens[:, 58:])
        self.assertTrue(torch.equal(logits, self.model.advance(memory, self.tokens[:, 58:])))

    def test_text_and_documents(self) -> None:
        self.write()
        with cairn.open_memory(self.path) as file:
            ids = self.tokens[0, :58].tolist()
            self.assertEqual(file.token_ids().tolist(), ids)
            for begin, end in ((0, 0), (3, 17), (29, 31), (54, 58), (55, 56), (58, 58)):
                self.assertEqual(file.token_ids(begin, end).tolist(), ids[begin:end])
            self.assertEqual(file.chunk_tokens(7).tolist(), ids[35:40])
            self.assertEqual([(d.name, d.begin, d.end) for d in file.documents], [("first.txt", 0, 11), ("second.txt", 11, 58)])
            self.assertEqual(file.document_at(10).name, "first.txt")
            self.assertEqual(file.document_at(11).name, "second.txt")
            marks = self.model.read(self.tokens[:, :58]).pages[0].landmarks[0]
            self.assertTrue(torch.equal(file.landmarks(), marks))
            self.assertFalse(file.reading)
            for call in (lambda: file.token_ids(3, 59), lambda: file.chunk_tokens(11), lambda: file.document_at(58)):
                self.assertRaises(ValueError, call)

    def test_another_model(self) -> None:
        root = self.write()
        self.model.fingerprint = "f" * 16
        self.refuse("fingerprint 0123456789abcdef")
        self.model = random_model(top_k=4)
        self.refuse("top_k is 3 there and 4 here")
        self.model = random_model()
        with cairn.open_memory(self.path) as file, self.assertWarnsRegex(UserWarning, "cannot be checked"):
            file.state(self.model)
        self.model.fingerprint = "0123456789abcdef"
        root["memory"], root["reading"] = None, {"source": 0}
        self.extents.save(self.path, root)
        self.refuse("a reading is in progress")

    def test_wrong_roots(self) -> None:
        good = self.write()

        def wrong(word: str, change) -> None:
            root = copy.deepcopy(good)
            change(root)
            self.extents.save(self.path, root)
            self.refuse(word)

        memory = lambda r: r["memory"]
        page = lambda r: r["memory"]["pages"][1]
        wrong("version 2", lambda r: r.update(version=2))
        wrong("not a memory file", lambda r: r.update(format="cairn.other"))
        wrong("compute", lambda r: r.update(compute="fp64"))
        wrong("token_bytes", lambda r: r.update(token_bytes=3))
        wrong("unknown option", lambda r: r["model"]["config"].update(more=1))
        wrong("fingerprint", lambda r: r["model"].pop("fingerprint"))
        wrong("tokens are", lambda r: memory(r).update(tokens=63))
        wrong("partial_tokens", lambda r: memory(r).update(tokens=57))
        wrong("partial_tokens", lambda r: memory(r).update(partial_tokens=-1))
        wrong("there is no extent 99", lambda r: memory(r).update(partial_tokens=99))
        wrong("there is no extent True", lambda r: page(r).update(k=True))
        wrong("'v' of a page", lambda r: page(r).update(v=page(r)["landmarks"]))
        wrong("or more chunks", lambda r: page(r).update(first=5))
        wrong("'first' is -1", lambda r: page(r).update(first=-1))
        wrong("another kind", lambda r: page(r).update(chunks=3.0))
        wrong("documents", lambda r: memory(r).update(documents=[{"name": "a", "token": 3}]))
        wrong("documents", lambda r: memory(r)["documents"].append({"name": "a", "token": 59}))
        wrong("lower layers", lambda r: memory(r)["lower"].pop())
        wrong("has shape", lambda r: memory(r)["tail"].update(shape=[1, 11, 32]))
        wrong("lacks", lambda r: memory(r).update(tail={"extent": -1}))
        wrong("has shape", lambda r: memory(r).update(tail=memory(r)["partial"]))

    def test_newest_commit_counts(self) -> None:
        root = self.write()
        one = self.path.read_bytes()
        root["memory"]["documents"] = [{"name": "newer.txt", "token": 0}]
        self.extents.save(self.path, root, sequence=2)
        two = bytearray(self.path.read_bytes())
        # Both commits in one file: the second's directory behind the first's file.
        offset, size = struct.unpack_from("<QQ", two, 4096 + 24)
        file = bytearray(one) + bytes(-len(one) % 4096)
        slot = bytearray(two[4096 : 4096 + 120])
        struct.pack_into("<Q", slot, 24, len(file))
        struct.pack_into("<Q", slot, 48, len(file) + size)
        file[4096 : 4096 + 128] = bytes(slot) + struct.pack("<Q", hash_of(bytes(slot)))
        file += two[offset : offset + size]
        self.path.write_bytes(file)
        with cairn.open_memory(self.path) as opened:
            self.assertEqual(opened.documents[0].name, "newer.txt")
        if xxhash is not None:
            file[4096 + 60] ^= 1  # the second header was being written when the power went
            self.path.write_bytes(file)
            with cairn.open_memory(self.path) as opened:
                self.assertEqual(opened.documents[0].name, "first.txt")

    @unittest.skipIf(xxhash is None, "needs the package xxhash")
    def test_every_damaged_byte_is_found(self) -> None:
        self.write()
        good = self.path.read_bytes()
        offset, size = struct.unpack_from("<QQ", good, 24)
        for at in [*range(128), *range(offset, offset + size, 7)]:
            damaged = bytearray(good)
            damaged[at] ^= 1 << at % 8
            self.path.write_bytes(damaged)
            with self.assertRaises(ValueError, msg=str(at)):
                cairn.open_memory(self.path)
        for length in (0, 100, 8191, 8192, offset, len(good) - 1):
            self.path.write_bytes(good[:length])
            self.refuse("")
        damaged = bytearray(good)
        damaged[8192] ^= 1
        self.path.write_bytes(damaged)
        with cairn.open_memory(self.path) as file:
            self.assertRaisesRegex(ValueError, "extent 0 is damaged", file.verify)
        self.path.write_bytes(good)
        with cairn.open_memory(self.path) as file:
            file.verify()

    def test_hostile_directories(self) -> None:
        self.write()
        good = self.path.read_bytes()
        offset, size = struct.unpack_from("<QQ", good, 24)
        rows = offset + 8

        def wrong(word: str, at: int, value: int) -> None:
            """One number of header or directory changed, with checksums that agree."""
            file = bytearray(good)
            struct.pack_into("<Q", file, at, value)
            if at >= offset:
                struct.pack_into("<Q", file, 40, hash_of(bytes(file[offset : offset + size])))
            struct.pack_into("<Q", file, 120, hash_of(bytes(file[:120])))
            self.path.write_bytes(file)
            self.refuse(word)

        wrong("version 7", 8, 7)
        wrong("does not lie inside", 24, 1 << 63)
        wrong("does not lie inside", 24, offset + 1)
        wrong("does not lie inside", 24, 4096)
        wrong("does not lie inside", 32, 1 << 62)
        wrong("cut off", 48, len(good) + 1)
        wrong("more than it can hold", offset, 1 << 61)
        wrong("does not lie inside", rows, 4096)
        wrong("does not lie inside", rows, 8193)
        wrong("does not lie inside", rows + 8, (1 << 64) - 1)
        wrong("overlap", rows, struct.unpack_from("<Q", good, rows + 24)[0])
        wrong("overlap", rows, offset)
        wrong("no bytes but a place", rows + 8, 0)

    def test_locks(self) -> None:
        self.write()
        with open(self.path, "rb") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            with self.assertRaisesRegex(BlockingIOError, "book.memory"):
                cairn.open_memory(self.path)
        file, again = cairn.open_memory(self.path), cairn.open_memory(self.path)
        again.close()
        with open(self.path, "rb") as other:
            exclusive = lambda: fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.assertRaises(OSError, exclusive)
            memory = file.state(self.model)
            file.close()
            self.assertRaises(OSError, exclusive)  # its pages are still in use
            self.assertRaisesRegex(ValueError, "is closed", file.token_ids)
            del memory
            exclusive()

    def test_without_xxhash(self) -> None:
        self.write()
        with mock.patch.object(extent_file, "xxhash", None), self.assertWarnsRegex(UserWarning, "xxhash"):
            file = cairn.open_memory(self.path)
        with file, mock.patch.object(extent_file, "xxhash", None):
            self.assertRaises(RuntimeError, file.verify)
            self.assertEqual(file.state(self.model).tokens, 58)

    def test_missing_file(self) -> None:
        self.refuse("cannot be opened")


if __name__ == "__main__":
    unittest.main()
