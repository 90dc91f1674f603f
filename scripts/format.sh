#!/bin/sh
# Formats all C++ files that git knows (or will know); with --check only says which would change. The house format is that of clang-format 14:
# other versions differ in details, so there the check is skipped, with that reason.
set -eu
cd "$(dirname "$0")/.."
VERSION=14
tool=clang-format
command -v clang-format-$VERSION >/dev/null && tool=clang-format-$VERSION
command -v $tool >/dev/null || { echo "format: clang-format is missing; run make setup" >&2; exit 2; }
have=$($tool --version | sed 's/.*version \([0-9]*\).*/\1/')
files=$(git ls-files -co --exclude-standard -- '*.h' '*.cpp' '*.cu' '*.cuh')
if [ "${1:-}" = --check ]; then
  if [ "$have" != $VERSION ]; then
    echo "format: SKIPPED: clang-format $have is here, the house format is that of version $VERSION"
    exit 0
  fi
  # shellcheck disable=SC2086
  if ! report=$($tool --dry-run -Werror $files 2>&1); then
    echo "$report" | sed -n 's/^\([^:]*\):[0-9].*/\1/p' | sort | uniq -c >&2
    echo "format: the files above differ from the house format; run make format" >&2
    exit 1
  fi
  echo "format: $(echo "$files" | wc -l) files are in the house format"
else
  # shellcheck disable=SC2086
  $tool -i $files
  echo "format: done (clang-format $have)"
fi
