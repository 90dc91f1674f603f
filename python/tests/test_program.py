"""The program and this package on the same model and the same memory."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import unittest
from pathlib import Path

import torch
from support import PROGRAM, ROOT, Extents, memory_root, relative_rms, xxhash

import cairn
from cairn.checkpoint import read_weights


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    return subprocess.run([str(PROGRAM), *map(str, arguments)], capture_output=True, text=True, env=environment, check=False)


@unittest.skipUnless(PROGRAM.is_file(), f"no program in {PROGRAM}")
class Program(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)
        settings = ["train.tokens=24K", "train.batch_tokens=1K", "model.upper=memory,window,memory", "model.beta=0.5"]
        sets = [word for setting in settings for word in ("--set", setting)]
        cls.said = run("train", ROOT / "configs" / "demo.toml", "--run", cls.folder / "run", "--threads", 1, *sets)
        cls.model_folder = cls.folder / "run" / "model"

    def setUp(self) -> None:
        self.assertEqual(self.said.returncode, 0, self.said.stderr)
        self.model = cairn.load_model(self.model_folder)
        self.words = (self.model_folder / "tokenizer.model").read_text().splitlines()[1:]

    def need(self, command: str) -> str:
        """The command's help; skips where the program has no such command."""
        if not re.search(rf"^ +{command}\b", run("--help").stdout, re.MULTILINE):
            self.skipTest(f"this program has no `cairn {command}`")
        return run(command, "--help").stdout

    @unittest.skipIf(xxhash is None, "needs the package xxhash")
    def test_fingerprint(self) -> None:
        file = self.folder / "eval.json"
        said = run("eval", self.model_folder, "--lengths", "128", "--samples", "1", "--threads", 1, "--json", file)
        self.assertEqual(said.returncode, 0, said.stderr)
        found = re.findall(r'"fingerprint": *"([0-9a-f]{16})"', file.read_text())
        self.assertIn(self.model.fingerprint, found)
        self.assertEqual((self.model_folder / "config.json").read_text(), self.model.config.to_json())

    def compare(self, memory_file: Path, prompt: str, words: int) -> None:
        out = self.folder / "logits.safetensors"
        said = run("generate", self.model_folder, "--memory", memory_file, "--prompt", prompt, "--logits", out)
        self.assertEqual(said.returncode, 0, said.stderr)
        given = read_weights(out)
        self.assertEqual(given["tokens"].shape, (words,))
        with cairn.open_memory(memory_file) as file:
            logits = self.model.advance(file.state(self.model), given["tokens"][None])[0]
        self.assertLessEqual(relative_rms(logits, given["logits"]), 1e-5)

    @unittest.skipIf(xxhash is None, "needs the package xxhash")
    def test_program_asks_a_memory_written_here(self) -> None:
        self.need("generate")
        tokens = torch.randint(1, 100, (1, 203), generator=torch.Generator().manual_seed(5))
        extents, path = Extents(), self.folder / "here.memory"
        root = memory_root(extents, self.model, self.model.read(tokens), tokens)
        kind = b"words\0" + (self.model_folder / "tokenizer.model").read_bytes()
        root["tokenizer"]["fingerprint"] = xxhash.xxh3_64_hexdigest(kind)
        extents.save(path, root)
        self.compare(path, " ".join(self.words[20:31]), 11)

    def test_asking_a_memory_of_the_program(self) -> None:
        self.need("generate")
        usage = self.need("read")
        option = next((o for o in ("--memory", "-o", "--output") if re.search(rf"(^|[\s,]){o}\b", usage)), None)
        if option is None:
            self.skipTest("`cairn read` takes neither --memory nor -o")
        text, memory = self.folder / "text.txt", self.folder / "text.memory"
        words = [self.words[i * i % 150] for i in range(300)]
        text.write_text(" ".join(words))
        said = run("read", self.model_folder, text, option, memory)
        self.assertEqual(said.returncode, 0, said.stderr)
        with cairn.open_memory(memory) as file:
            file.verify()
            self.assertEqual([self.words[i - 1] for i in file.token_ids()[:300]], words)
            self.assertEqual(json.loads(file.config.to_json()), json.loads(self.model.config.to_json()))
        self.compare(memory, " ".join(self.words[20:31]), 11)


if __name__ == "__main__":
    unittest.main()
