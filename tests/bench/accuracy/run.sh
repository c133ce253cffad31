#!/bin/sh
# Accuracy of quantpipe's outputs beside other tools', of one model, one calibration text, one evaluator: makes the
# tables of tests/bench/RESULTS.md. What is there already is kept, so a run that was stopped goes on; remove
# build/accuracy to begin anew. Needs `make build`.
#   run.sh [NAME...]           only these rows of recipes.txt and peers.txt ("int4-gptq", "modelopt/fp8")
#   PEERS=1 run.sh             the other tools' rows as well (8 GB of packages, hours of CPU)
#   CALIBRATION_TEXT=FILE EVALUATION_TEXT=FILE    other texts than the example's
#   SAMPLES=128 WINDOWS=16     calibration windows of 512 tokens, evaluation windows of 2048
set -eu
cd "$(dirname "$0")/../../.."
. tests/bench/prepare.sh

here=tests/bench/accuracy
work=build/accuracy
samples=${SAMPLES:-128} windows=${WINDOWS:-16}

prepare
mkdir -p "$work/quantpipe"

wanted() { # NAME: is it among the arguments, or are there none?
    [ -z "$names" ] || case " $names " in *" $1 "*) true ;; *) false ;; esac
}

# ours NAME ARGUMENT...: one run into $work/quantpipe/NAME.
ours() {
    name=$1
    shift
    [ -d "$work/quantpipe/$name" ] && return
    rm -rf "$work/quantpipe/$name.run"
    echo "quantpipe/$name: $*"
    build/bin/quantpipe run examples/smollm2/pipeline.yaml --set model="$PWD/$model" --output "$work/quantpipe/$name" \
        --progress none --set data.calibration.seed=0 --set data.calibration.samples="$samples" \
        --set data.evaluation.length=2048 --set data.evaluation.samples="$windows" "$@" \
        >"$work/quantpipe/$name.log" 2>&1 ||
        { cat "$work/quantpipe/$name.log" && exit 1; }
}

# peer TOOL RECIPE: one run of another tool into $work/TOOL/RECIPE.
peer() {
    [ -d "$work/$1/$2" ] && return
    environment "$1" "tests/bench/peers/$1.txt"
    echo "$1/$2"
    mkdir -p "$work/$1"
    rm -rf "$work/$1/$2.partial"
    "$(python "$1")" "tests/bench/peers/$1_job.py" "$2" "$work/$1/$2.partial" --model "$model" \
        --text "$CALIBRATION_TEXT" --samples "$samples" >"$work/$1/$2.log" 2>&1 ||
        { tail -n 20 "$work/$1/$2.log" && echo "$1/$2 failed, going on without it" && return; }
    mv "$work/$1/$2.partial" "$work/$1/$2"
}

names="$*"
while read -r name arguments; do
    case "$name" in '' | '#'*) continue ;; esac
    # shellcheck disable=SC2086  # a recipe is words
    if wanted "$name"; then ours "$name" $arguments </dev/null; fi
done <$here/recipes.txt

if [ "${PEERS:-0}" = 1 ]; then
    while read -r tool recipe; do
        case "$tool" in '' | '#'*) continue ;; esac
        if wanted "$tool/$recipe"; then peer "$tool" "$recipe" </dev/null; fi
    done <$here/peers.txt
fi

touch "$work/scores.jsonl"
for folder in "$work"/*/*/; do
    name=$(basename "$(dirname "$folder")")/$(basename "$folder")
    [ -f "$folder/config.json" ] || continue
    case "$name" in *.run | *.partial) continue ;; esac
    grep -q "\"name\": \"$name\"" "$work/scores.jsonl" && continue
    "$(python interop)" $here/evaluate.py --reference "$model" --text "$EVALUATION_TEXT" \
        --windows "$windows" --cache "$work" "$name=$folder" 2>"$work/evaluate.log" >>"$work/scores.jsonl" ||
        { tail -n 20 "$work/evaluate.log" && exit 1; }
done
"$(python interop)" $here/table.py "$work"
