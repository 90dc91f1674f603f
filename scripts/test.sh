#!/bin/sh
# The whole promise, in steps; every step says how long it took. The first that fails ends the run.
set -eu
cd "$(dirname "$0")/.."
JOBS=${JOBS:-$(nproc)}
started=$(date +%s)
summary=""

# step NAME COMMAND...: runs it, with its time; on failure the rest is not run.
step() {
  name=$1
  shift
  echo "== $name"
  begin=$(date +%s)
  "$@" || { echo "test: FAILED in: $name ($(($(date +%s) - begin)) s)" >&2; exit 1; }
  summary="$summary
  $(printf '%5d s  %s' $(($(date +%s) - begin)) "$name")"
}

configure() {
  folder=$1
  shift
  mkdir -p "$folder"
  cmake -S . -B "$folder" -G Ninja "$@" >"$folder/configure.log" 2>&1 || { cat "$folder/configure.log"; return 1; }
}
build_all() {
  configure build -DCAIRN_TORCH="${CAIRN_TORCH:-}" -DCAIRN_CUDA=OFF -DCAIRN_WERROR=ON
  cmake --build build -j "$JOBS"
}
# One test program at a time: each uses all cores itself.
run_tests() {
  ctest --test-dir "$1" --output-on-failure -j 1 || return 1
  # ctest does not say why
  sed -n -e 's/^python: SKIPPED/test: the tests of python\/ were skipped/p' \
    -e 's/^test_ops (.*skipped \(.*\)$/test: the tests of cairn.ops were skipped: \1/p' "$1/Testing/Temporary/LastTest.log"
}
sanitized() {
  configure build/sanitized -DCAIRN_TORCH_FREE=ON -DCAIRN_SANITIZE=address,undefined -DCAIRN_WERROR=ON
  cmake --build build/sanitized -j "$JOBS"
  UBSAN_OPTIONS=print_stacktrace=1 run_tests build/sanitized
}
# The same objects (ccache), the kernels, and both linked with the CUDA half of LibTorch; that needs nvcc, but no GPU. test_cuda is for one.
gpu_program() {
  configure build/cuda -DCAIRN_TORCH="${CAIRN_TORCH:-}" -DCAIRN_CUDA=ON -DCAIRN_WERROR=ON
  cmake --build build/cuda -j "$JOBS" --target cairn cairn_pytorch test_cuda
}

step "setup" env CUDA=1 scripts/setup.sh
step "format" scripts/format.sh --check
step "build, warnings are errors" build_all
step "tests" run_tests build
step "torch-free rooms under address and undefined-behaviour sanitizers" sanitized
step "CUDA code compiles, GPU program links" gpu_program
echo "== all passed in $(($(date +%s) - started)) s$summary"
