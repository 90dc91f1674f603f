"""All is in pyproject.toml, but for the wheel's tag: with the compiled library inside it is for one kind of machine, and any Python."""

from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel

COMPILED = (Path(__file__).parent / "src" / "cairn" / "lib" / "libcairn_torch.so").is_file()


class Package(Distribution):
    def has_ext_modules(self) -> bool:
        return COMPILED


class Wheel(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        return ("py3", "none", super().get_tag()[2])


setup(distclass=Package, cmdclass={"bdist_wheel": Wheel})
