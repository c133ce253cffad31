#!/bin/sh
# Accuracy of quantpipe's outputs beside llm-compressor's, of one model, one calibration text, one evaluator: makes the
# table of tests/bench/RESULTS.md. What is there already is kept, so a run that was stopped goes on; remove
# build/accuracy to begin anew. Needs `make build` and `make interop` (for the Python packages).
#   run.sh [NAME...]           only these rows of recipes.txt
#   PEERS=1 run.sh             llm-compressor's rows as well (6 GB of packages, an hour of CPU)
#   CALIBRATION_TEXT=FILE EVALUATION_TEXT=FILE    other texts than the example's
#   SAMPLES=128 WINDOWS=16     calibration windows of 512 tokens, evaluation windows of 2048
set -eu
cd "$(dirname "$0")/../../.."

here=tests/bench/accuracy
work=build/accuracy
cache="${XDG_CACHE_HOME:-$HOME/.cache}/quantpipe"
model=examples/smollm2/model
samples=${SAMPLES:-128} windows=${WINDOWS:-16}
export CALIBRATION_TEXT="${CALIBRATION_TEXT:-$PWD/$model/calibration.txt}"
export EVALUATION_TEXT="${EVALUATION_TEXT:-$PWD/$model/evaluation.txt}"

examples/smollm2/get.sh
mkdir -p "$work/ours" "$work/peers"
[ -d "$work/reference" ] ||
    "$cache/interop/bin/python" tests/interop/reference.py "$model/SmolLM2-135M-Instruct.gguf" "$work/reference"

# ours NAME ARGUMENT...: one run into $work/ours/NAME.
ours() {
    name=$1
    shift
    [ -d "$work/ours/$name" ] && return
    rm -rf "$work/ours/$name.run"
    echo "ours/$name: $*"
    build/bin/quantpipe run examples/smollm2/pipeline.yaml --output "$work/ours/$name" --progress none \
        --set data.calibration.seed=0 --set data.calibration.samples="$samples" \
        --set data.evaluation.length=2048 --set data.evaluation.samples="$windows" "$@" >"$work/ours/$name.log" 2>&1 ||
        { cat "$work/ours/$name.log" && exit 1; }
}

# peer NAME: one run of llm-compressor into $work/peers/NAME.
peer() {
    [ -d "$work/peers/$1" ] && return
    echo "peers/$1"
    "$cache/peers/bin/python" $here/peers.py "$1" "$work/peers/$1" --model "$work/reference" \
        --text "$CALIBRATION_TEXT" --samples "$samples" >"$work/peers/$1.log" 2>&1 ||
        { tail -n 20 "$work/peers/$1.log" && exit 1; }
}

prepare_peers() {
    [ -d "$cache/peers" ] || python3 -m venv "$cache/peers"
    "$cache/peers/bin/pip" install --quiet --disable-pip-version-check llmcompressor==0.14.0.1 datasets
}

wanted() { # LIST NAME
    [ -z "$1" ] || case " $1 " in *" $2 "*) true ;; *) false ;; esac
}

names="$*"
while read -r name arguments; do
    case "$name" in '' | '#'*) continue ;; esac
    # shellcheck disable=SC2086  # a recipe is words
    if wanted "$names" "$name"; then ours "$name" $arguments </dev/null; fi
done <$here/recipes.txt

if [ "${PEERS:-0}" = 1 ]; then
    prepare_peers
    for name in int4-rtn int4-asym-rtn fp8-dynamic-rtn int4-gptq int3-gptq nvfp4-rtn fp8-kv-rtn int8-smoothquant-gptq \
        int4-asym-awq; do
        peer $name </dev/null
    done
fi

touch "$work/scores.jsonl"
for folder in "$work"/ours/*/ "$work"/peers/*/; do
    name=$(basename "$(dirname "$folder")")/$(basename "$folder")
    case "$name" in *.run | '*/*' | */'*') continue ;; esac
    grep -q "\"name\": \"$name\"" "$work/scores.jsonl" && continue
    "$cache/interop/bin/python" $here/evaluate.py --reference "$work/reference" --text "$EVALUATION_TEXT" \
        --windows "$windows" --cache "$work" "$name=$folder" 2>"$work/evaluate.log" >>"$work/scores.jsonl" ||
        { tail -n 20 "$work/evaluate.log" && exit 1; }
done
"$cache/interop/bin/python" $here/table.py "$work"
