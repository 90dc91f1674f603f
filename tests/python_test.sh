#!/bin/sh
# The tests of python/. Needs a Python with torch and numpy: CAIRN_PYTHON, or python3 where it has both. Exit code 77: skipped, with the reason.
#   python_test.sh SOURCE_FOLDER BUILD_FOLDER
set -eu
python=${CAIRN_PYTHON:-python3}
if ! reason=$("$python" -c 'import sys; assert sys.version_info >= (3, 10), "Python is older than 3.10"; import torch, numpy' 2>&1); then
  reason=$(echo "$reason" | tail -n 1)
  if [ -n "${CAIRN_PYTHON:-}" ]; then
    echo "python: CAIRN_PYTHON=$python will not do: $reason" >&2
    exit 1
  fi
  echo "python: SKIPPED: $python will not do: $reason (CAIRN_PYTHON names one with torch and numpy)"
  exit 77
fi
export CAIRN_PROGRAM="$2/cairn" CAIRN_LIBRARY="$2/libcairn_torch.so" PYTHONDONTWRITEBYTECODE=1
exec "$python" -m unittest discover -s "$1/python/tests" -v
