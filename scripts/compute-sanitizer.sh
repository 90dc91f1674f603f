#!/bin/sh
# compute-sanitizer's tools over the kernels on tiny shapes (tests/ops/cuda_tiny_test.cpp): memcheck, initcheck and racecheck of each test at once,
# a table at the end. On a machine with a GPU:
#   compute-sanitizer.sh TEST_CUDA [RACE_TEST_CUDA]
# TEST_CUDA: build/cuda/tests/test_cuda. RACE_TEST_CUDA: the same program compiled with -DCAIRN_RACECHECK (cmake ... -DCMAKE_CUDA_FLAGS="...
# -DCAIRN_RACECHECK"), without which racecheck reports every handing over of a stage in chunk and union order; these are left out without it.
# Logs: folder $LOGS, or ./compute-sanitizer. SECONDS_EACH (75): what one run may take. Exit code 1: something was found, or has not ended.
set -u
program=$1 race=${2:-}
logs=${LOGS:-compute-sanitizer} limit=${SECONDS_EACH:-75}
tool=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | head -n 1)
[ -n "$tool" ] || { echo "compute-sanitizer is not here; it comes with the CUDA toolkit" >&2; exit 2; }
mkdir -p "$logs"
rm -f "$logs"/*.txt
# Every tensor is an allocation of its own, whose end memcheck knows.
export PYTORCH_NO_CUDA_MEMORY_CACHING=1 OMP_NUM_THREADS=1

one() {  # one KIND TEST PROGRAM
  log=$logs/$1.$2.txt begin=$(date +%s)
  timeout "$limit" "$tool" --tool "$1" --print-limit 12 "$3" --gtest_filter="CudaTiny.$2" > "$log" 2>&1
  code=$?
  summary=$(grep SUMMARY "$log" | tail -n 1 | sed 's/=* *//')
  verdict=FOUND
  case $summary in *"SUMMARY: 0 "*) grep -q '^\[  PASSED  \] 1 test' "$log" && [ $code = 0 ] && verdict=clean ;; esac
  [ $code = 124 ] && verdict="NOT ENDED"
  echo "$1 $2: $verdict, $(($(date +%s) - begin)) s, ${summary:-no summary} (exit code $code)" > "$log.table"
}
for kind in memcheck initcheck racecheck; do
  for test in UnionOrder ChunkOrder Backward RowOrder Int8Selection Selection Pages; do
    its=$program
    if [ $kind = racecheck ]; then
      case $test in UnionOrder | ChunkOrder | Backward) its=$race ;; esac
    fi
    [ -n "$its" ] && one $kind $test "$its" &
  done
done
wait
cat "$logs"/*.table
! grep -qv ": clean" "$logs"/*.table
