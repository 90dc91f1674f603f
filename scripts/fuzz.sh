#!/bin/sh
# Fuzzes the readers of files that others may have made, with libFuzzer under address and undefined-behaviour sanitizers.
#   make fuzz                              a million executions a reader, one reader after the other
#   make fuzz RUNS=20000 READERS="shard"   fewer, of one reader
# Readers: safetensors shard tokenizer configuration extent_file. The corpus grows in build/fuzz/corpus from run to run; inputs with findings lie
# in build/fuzz/findings, and build/fuzz/tests/fuzz/fuzz_READER FILE runs one again.
set -eu
cd "$(dirname "$0")/.."
RUNS=${RUNS:-1000000}
READERS=${READERS:-safetensors shard tokenizer configuration extent_file}
JOBS=${JOBS:-$(nproc)}
FOLDER=build/fuzz

case "$RUNS" in '' | *[!0-9]* | 0) echo "fuzz: RUNS must be a number of executions above 0, not '$RUNS'" >&2; exit 2 ;; esac
for tool in clang clang++; do
  command -v $tool >/dev/null || { echo "fuzz: clang is missing; run: apt-get install clang libclang-rt-14-dev" >&2; exit 2; }
done
version=$(clang --version | sed -n 's/.*clang version \([0-9]*\).*/\1/p')
mkdir -p $FOLDER/findings
echo 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }' >$FOLDER/probe.cpp
clang++ -fsanitize=fuzzer,address,undefined $FOLDER/probe.cpp -o $FOLDER/probe 2>$FOLDER/probe.log || {
  cat $FOLDER/probe.log >&2
  echo "fuzz: clang $version has no libFuzzer or no sanitizers here; run: apt-get install libclang-rt-$version-dev" >&2
  exit 2
}
rm -f $FOLDER/probe $FOLDER/probe.cpp $FOLDER/probe.log

cmake -S . -B $FOLDER -G Ninja -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++ -DCAIRN_TORCH_FREE=ON -DCAIRN_FUZZ=ON \
  -DCAIRN_SANITIZE=address,undefined -DCAIRN_WERROR=OFF >$FOLDER/configure.log 2>&1 || { cat $FOLDER/configure.log; exit 1; }
targets=""
for reader in $READERS; do
  [ -e "tests/fuzz/${reader}_fuzz.cpp" ] || { echo "fuzz: there is no reader '$reader'" >&2; exit 2; }
  targets="$targets fuzz_$reader seeds_$reader"
done
# shellcheck disable=SC2086
cmake --build $FOLDER -j "$JOBS" --target $targets >$FOLDER/build.log 2>&1 || { tail -40 $FOLDER/build.log; exit 1; }

bad=""
echo "fuzz: reader           executions  seconds  executions/s  coverage  findings"
for reader in $READERS; do
  corpus=$FOLDER/corpus/$reader
  log=$FOLDER/$reader.log
  $FOLDER/tests/fuzz/seeds_"$reader" --seeds "$corpus"
  before=$(find $FOLDER/findings -name "$reader-*" | wc -l)
  started=$(date +%s)
  status=0
  nice -n 10 $FOLDER/tests/fuzz/fuzz_"$reader" -runs="$RUNS" -max_len=32768 -timeout=10 -rss_limit_mb=2048 -malloc_limit_mb=512 \
    -dict="$corpus.dict" -artifact_prefix="$FOLDER/findings/$reader-" -print_final_stats=1 "$corpus" >"$log" 2>&1 || status=$?
  seconds=$(($(date +%s) - started))
  executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  coverage=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -1)
  findings=$(($(find $FOLDER/findings -name "$reader-*" | wc -l) - before))
  [ $status = 0 ] || bad="$bad $reader"
  printf 'fuzz: %-16s %10s %8s %13s %9s %9s\n' "$reader" "${executions:-?}" "$seconds" "$((${executions:-0} / (seconds > 0 ? seconds : 1)))" \
    "${coverage:-?}" "$findings"
done
if [ -n "$bad" ]; then
  echo "fuzz: FINDINGS in:$bad; see $FOLDER/findings and $FOLDER/READER.log" >&2
  exit 1
fi
