"""The wheel with the compiled operators: built, installed into a fresh environment, used from there; and the example."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import unittest
import zipfile
from pathlib import Path

import torch
from ops_support import ROOT  # skips where the library is not there or does not fit

from cairn import _library

SNIPPET = """
import sys
from pathlib import Path
import torch
import cairn.ops
from cairn.layers import MemoryAttention
home = Path(sys.prefix).resolve()
assert home in Path(cairn.__file__).resolve().parents, cairn.__file__
assert cairn.ops.BUILD["torch"] == torch.__version__.split("+")[0]
with open("/proc/self/maps") as maps:
    loaded = {line.split()[-1] for line in maps if "libcairn_torch" in line}
assert len(loaded) == 1 and str(home) in loaded.pop()
layer = MemoryAttention(16, heads=2, head_dim=8, chunk=4, top_k=2)
layer(torch.randn(1, 12, 16)).sum().backward()
print("works", layer.q_proj.weight.grad.shape)
"""


def run(*command: object, folder: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name not in ("CAIRN_LIBRARY", "PYTHONPATH")}
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, cwd=folder, env={**inherited, **environment}, check=False
    )


class Wheel(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)
        made = run(ROOT / "scripts" / "wheel.sh", _library.places()[0].resolve(), cls.folder / "wheel", CAIRN_PYTHON=sys.executable)
        if made.returncode and re.search("No matching distribution found for setuptools|Temporary failure|has no pip", made.stderr):
            raise unittest.SkipTest(f"no wheel can be built here: {made.stderr.strip().splitlines()[-1]}")
        if made.returncode:
            raise AssertionError(made.stdout + made.stderr)
        (cls.wheel,) = (cls.folder / "wheel").glob("*.whl")
        python = run(sys.executable, "-m", "venv", cls.folder / "venv")
        if python.returncode:
            raise unittest.SkipTest(f"{sys.executable} makes no environments: {python.stderr}")
        cls.python = cls.folder / "venv" / "bin" / "python"
        # torch is large: the fresh environment sees the one of this Python.
        (site,) = (cls.folder / "venv").glob("lib/python*/site-packages")
        (site / "torch.pth").write_text(str(Path(torch.__file__).parents[1]) + "\n")
        installed = run(cls.python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", cls.wheel)
        if installed.returncode:
            raise AssertionError(installed.stderr)
        cls.installed = site / "cairn" / "lib" / _library.NAME

    def test_contents(self) -> None:
        self.assertRegex(self.wheel.name, r"^cairn-[0-9.]+-py3-none-(linux|manylinux).*\.whl$")
        with zipfile.ZipFile(self.wheel) as wheel:
            names = set(wheel.namelist())
        self.assertTrue({"cairn/lib/libcairn_torch.so", "cairn/ops.py", "cairn/layers.py", "cairn/py.typed"} <= names, names)
        self.assertFalse([name for name in names if "test" in name])

    def test_installed(self) -> None:
        self.assertTrue(self.installed.is_file())
        said = run(self.python, "-c", SNIPPET, folder=self.folder)
        self.assertEqual(said.returncode, 0, said.stderr)
        self.assertIn("works", said.stdout)

    def test_library_missing_or_broken(self) -> None:
        """A message that says how to mend it; the rest of the package works."""
        use = "import cairn, cairn.plain; cairn.ModelConfig; import cairn.ops"
        said = run(self.python, "-c", use, folder=self.folder, CAIRN_LIBRARY=str(self.folder / "none.so"))
        self.assertEqual(said.returncode, 1)
        self.assertRegex(said.stderr, r"ImportError: cairn: libcairn_torch.so.* is not there \(looked for .*none.so\).*make wheel")
        data = self.installed.read_bytes()
        version = b"torch=" + torch.__version__.split("+")[0].encode()
        self.assertGreaterEqual(data.count(version), 1)
        other = self.folder / "other.so"
        other.write_bytes(data.replace(version, version[:-1] + b"7"))
        said = run(self.python, "-c", use, folder=self.folder, CAIRN_LIBRARY=str(other))
        self.assertRegex(said.stderr, r"ImportError: cairn: .*other.so was built for torch .*7, but this is torch .*Install torch .*7")
        other.write_bytes(data[: len(data) // 2])
        said = run(self.python, "-c", use, folder=self.folder, CAIRN_LIBRARY=str(other))
        self.assertRegex(said.stderr, r"ImportError: cairn: .*other.so (cannot be loaded|is no libcairn_torch.so)")


class Example(unittest.TestCase):
    def test_loss_falls(self) -> None:
        example = ROOT / "python" / "examples" / "train_small_model.py"
        said = run(sys.executable, example, "--steps", 100, CAIRN_LIBRARY=str(_library.places()[0].resolve()))
        self.assertEqual(said.returncode, 0, said.stderr)
        first, last = map(float, re.search(r"loss ([0-9.]+) -> ([0-9.]+)", said.stdout).groups())
        self.assertLess(last, 0.7 * first, said.stdout)


if __name__ == "__main__":
    unittest.main()
