#!/bin/bash
# Two GPUs against one: training rate, loss curves, reading, memory, a process that is killed. Prints tables.
#   bench/several_gpus.sh CAIRN CONFIG SCRATCH-FOLDER        CONFIG's data.* must lead to files; about two minutes on two H200
set -u
cairn=$1 config=$2 folder=$3
port=29600
mkdir -p "$folder"
say() { printf '\n=== %s\n' "$*"; }
# two COMMAND...: two processes of one run; the output of the first
two() {
  port=$((port + 1))
  for r in 0 1; do
    RANK=$r LOCAL_RANK=$r WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=$port "$@" >"$folder/out.$r" 2>"$folder/err.$r" &
    pid[r]=$!
  done
  wait "${pid[0]}"
  first=$?
  wait "${pid[1]}"
  second=$?
  cat "$folder/out.0"
  [ $first = 0 ] && [ $second = 0 ] || { echo "exit codes $first $second"; tail -n 3 "$folder/err.0" "$folder/err.1"; }
}
one() { "$@" 2>"$folder/err.one" || { echo "exit code $?"; tail -n 3 "$folder/err.one"; }; }
# kernels ONE.json TWO.json: where the kernels' time differs
kernels() {
  python3 - "$@" <<'PY'
import json, sys
one, two = (json.load(open(f))["phases"] for f in sys.argv[1:])
for a, b in zip(one, two):
    x, y = ({k["name"]: k["seconds"] * 1e3 for k in p["kernels"]} for p in (a, b))
    print(f"length {a['length']}: step {a['seconds']*1e3:.2f} -> {b['seconds']*1e3:.2f} ms, kernels {sum(x.values()):.2f} -> {sum(y.values()):.2f} ms, "
          f"tokens/s ratio {b['tokens_per_second'] / a['tokens_per_second']:.3f}")
    for name in sorted(set(x) | set(y), key=lambda n: -abs(y.get(n, 0) - x.get(n, 0)))[:9]:
        print(f"  {x.get(name, 0):8.3f} {y.get(name, 0):8.3f}  {name[:90]}")
PY
}
# curves RUN...: losses beside each other, relative differences from the first
curves() {
  python3 - "$folder" "$@" <<'PY'
import json, sys
folder, runs = sys.argv[1], sys.argv[2:]
def steps(run):
    lines = map(json.loads, open(f"{folder}/{run}/metrics.jsonl"))
    return {r["step"]: r["loss"] for r in lines if r["kind"] == "step"}
c = [steps(r) for r in runs]
print("step", *runs)
for s in sorted(c[0]):
    if s in (1, 2) or s % max(4, len(c[0]) // 8) == 0: print(s, *["%.5f" % x.get(s, float("nan")) for x in c])
for r, x in zip(runs[1:], c[1:]):
    d = [abs(x[s] - c[0][s]) / c[0][s] for s in c[0] if s in x]
    print(f"{r}: relative difference from {runs[0]}: largest {max(d):.2g}, mean {sum(d) / len(d):.2g} over {len(d)} steps")
PY
}
flags="--device cuda --set data.validation="
say "training step: 65,536 tokens a GPU"
one "$cairn" bench train "$config" $flags --steps 20 --kernels --rows 1 --json "$folder/one.json" | grep -E 'a step|^ +[0-9]+ +(all|[0-9]+) +[0-9]{5,}'
two "$cairn" bench train "$config" $flags --steps 20 --kernels --rows 1 --json "$folder/two.json" --set train.batch_tokens=131072 | grep -E 'a step|^ +[0-9]+ +(all|[0-9]+) +[0-9]{5,}'
kernels "$folder/one.json" "$folder/two.json"
train="$flags --set train.gates=[] --set train.log_every=1"
say "loss curves, fp32: one GPU, two, two and then one"
short="$train --set train.tokens=786432 --set train.precision=fp32"
rm -rf "$folder"/{one,two,two_one,again}32 "$folder"/{one,two,again}
one "$cairn" train "$config" --run "$folder/one32" $short >/dev/null
two "$cairn" train "$config" --run "$folder/two32" $short >/dev/null
two "$cairn" train "$config" --run "$folder/two_one32" $short --stop-after 6 >/dev/null
one "$cairn" train "$config" --run "$folder/two_one32" $short --resume >/dev/null
curves one32 two32 two_one32
say "loss curves, bf16: one GPU, the same again, two"
long="$train --set train.tokens=5242880"
one "$cairn" train "$config" --run "$folder/one" $long >/dev/null
one "$cairn" train "$config" --run "$folder/again" $long >/dev/null
two "$cairn" train "$config" --run "$folder/two" $long >/dev/null
curves one again two
say "reading 32M tokens: one GPU, two"
one "$cairn" bench read "$folder/one/model" --tokens 32M --device cuda | grep -E '^time  |^keys'
two "$cairn" bench read "$folder/one/model" --tokens 32M --device cuda | grep -E '^time  |^keys'
say "a memory of 8M tokens: one GPU, two"
one "$cairn" bench memory "$folder/one/model" --tokens 8M --device cuda --turns 10 --folder /dev/shm
two "$cairn" bench memory "$folder/one/model" --tokens 8M --device cuda --turns 10
