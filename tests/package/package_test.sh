#!/bin/sh
# What `cmake --install` promises: the installed program runs, and a project of its own builds with the package, links a room and answers.
#   package_test.sh SOURCE_FOLDER BUILD_FOLDER CXX GENERATOR
set -eu
source=$1 build=$2 cxx=$3 generator=$4
# The user's own settings must neither help nor hinder.
unset CAIRN_TORCH LD_LIBRARY_PATH CMAKE_PREFIX_PATH || true
work=$(mktemp -d "${TMPDIR:-/tmp}/cairn-package.XXXXXX")
trap 'rm -rf "$work"' EXIT
fail() {
  echo "package: $*" >&2
  exit 1
}
# quietly NAME COMMAND...: what it says is shown only if it fails.
quietly() {
  name=$1
  shift
  "$@" >"$work/$name.log" 2>&1 || { tail -n 40 "$work/$name.log" >&2; fail "$name failed"; }
}

quietly install cmake --install "$build" --prefix "$work/first"
mv "$work/first" "$work/prefix" # an installation may be moved
prefix=$work/prefix

[ -n "$(find "$prefix" -name libcairn_torch.so)" ] || fail "libcairn_torch.so was not installed"
"$prefix/bin/cairn" --version | grep -q '^cairn [0-9]' || fail "the installed program does not say its version"
quietly train "$prefix/bin/cairn" train "$source/configs/demo.toml" --run "$work/run" --threads 1 --set train.tokens=24K --set train.batch_tokens=1K
model=$work/run/model

cp -r "$prefix/share/cairn/examples/cpp" "$work/example"
configure() { cmake -S "$work/example" -B "$1" -G "$generator" -DCMAKE_CXX_COMPILER="$cxx" -DCMAKE_PREFIX_PATH="$prefix" "$2"; }
if configure "$work/nowhere" -DCAIRN_TORCH="$work/no-torch" >"$work/nowhere.log" 2>&1; then fail "a CAIRN_TORCH without LibTorch was accepted"; fi
grep -q 'CAIRN_TORCH' "$work/nowhere.log" || fail "the message about a missing LibTorch does not name CAIRN_TORCH"
quietly configure configure "$work/example/build" -DCMAKE_CXX_FLAGS=-Wall
quietly build cmake --build "$work/example/build"

ask() { "$work/example/build/ask" "$@" 2>"$work/said" || { cat "$work/said" >&2; fail "ask failed"; }; }
# Words of the model's own vocabulary: line 2 and on of its word list.
words=$(sed -n '2,60p' "$model/tokenizer.model" | tr '\n' ' ' | sed 's/ $//')
more=$(sed -n '61,75p' "$model/tokenizer.model" | tr '\n' ' ' | sed 's/ $//')
last=$(sed -n '76,78p' "$model/tokenizer.model" | tr '\n' ' ' | sed 's/ $//')
answer=$(ask "$model" "$words $more" "$last" 6)
[ "$(echo "$answer" | wc -w)" = 6 ] || fail "6 words were asked for, the answer is '$answer'"
grep -q 'read 74 tokens: 9 chunks' "$work/said" || fail "74 tokens in chunks of 8 were read as: $(cat "$work/said")"
# Where reading ends and asking begins changes nothing (docs/algorithm.md, section 4).
other=$(ask "$model" "$words" "$more $last" 6)
[ "$answer" = "$other" ] || fail "the answer depends on where reading ended: '$answer' and '$other'"
[ "$answer" != "$(ask "$model" "$last" "$words" 6)" ] || fail "another text gave the same answer"

code=0
"$work/example/build/ask" "$work/none" a b >/dev/null 2>"$work/said" || code=$?
[ $code = 2 ] || fail "a missing model gave exit code $code, not 2"
echo "package: installed, built and asked"
