#!/bin/sh
# A wheel of the Python package with the compiled operators inside: wheel.sh LIBRARY [FOLDER]
#   LIBRARY   libcairn_torch.so: build/libcairn_torch.so, or build/cuda/libcairn_torch.so with kernels for GPUs
#   FOLDER    where the wheel goes (default: build/wheel, emptied first)
# CAIRN_PYTHON: a Python 3.10 or later with pip (default: python3). pip fetches setuptools for the build where it is not at hand.
set -eu
cd "$(dirname "$0")/.."
library=$1
folder=${2:-build/wheel}
python=${CAIRN_PYTHON:-python3}
[ -f "$library" ] || { echo "wheel: $library is missing; run make wheel" >&2; exit 2; }
"$python" -m pip --version >/dev/null 2>&1 || { echo "wheel: $python has no pip; CAIRN_PYTHON names a Python that has" >&2; exit 2; }
stage=$(mktemp -d "${TMPDIR:-/tmp}/cairn-wheel.XXXXXX")
trap 'rm -rf "$stage"' EXIT
mkdir -p "$stage/python/src/cairn/lib" "$stage/out"
cp python/pyproject.toml python/setup.py python/README.md "$stage/python/"
cp LICENSE "$stage/python/LICENSE"
cp python/src/cairn/*.py python/src/cairn/py.typed "$stage/python/src/cairn/"
cp "$library" "$stage/python/src/cairn/lib/libcairn_torch.so"
strip --strip-unneeded "$stage/python/src/cairn/lib/libcairn_torch.so"
# setuptools of this Python will do if it is new enough; otherwise pip makes an environment of its own for the build.
isolation=""
if "$python" -c 'import sys, setuptools; sys.exit(tuple(map(int, setuptools.__version__.split(".")[:2])) < (70, 1))' 2>/dev/null; then
  isolation=--no-build-isolation
fi
# shellcheck disable=SC2086
PIP_DISABLE_PIP_VERSION_CHECK=1 "$python" -m pip wheel --quiet --no-deps $isolation --wheel-dir "$stage/out" "$stage/python" || {
  echo "wheel: pip could not build it (see above). Without access to a package index, install setuptools 70.1 or later for $python first" >&2
  exit 1
}
mkdir -p "$folder"
rm -f "$folder"/cairn-*.whl
mv "$stage"/out/cairn-*.whl "$folder/"
echo "wheel: $(ls "$folder"/cairn-*.whl) ($(du -k "$folder"/cairn-*.whl | cut -f1) KB)"
