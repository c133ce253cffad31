#!/bin/sh
# Time and memory of quantpipe on one real model, and beside other tools that are named: the tools of a job take turns,
# and the medians make a table. `make bench` runs this. What is there already is kept, so that a run that was stopped
# goes on; remove build/bench to begin anew. Without another tool it ends within BUDGET seconds and needs no packages.
#   run.sh [--list] [JOB...]               only these jobs of jobs.txt; --list prints what would be run
#   PEERS=llmcompressor:gptq run.sh        and these of other tools, TOOL:RECIPE with blanks between: the jobs that have
#                                          them, on a BF16 folder for all (8 GB of packages; minutes to hours a recipe)
#   BUDGET=420 LIMIT=1800                  seconds for all runs of ours together, and for each run of another tool
#   RUNS=1 SAMPLES=32 WINDOWS=0            turns, calibration windows of 512 tokens, evaluation windows of 2048 (0: none)
#   RESULTS=build/bench/RESULTS.md         where the table goes: a file's lines between "<!-- speed -->" are replaced
#   CALIBRATION_TEXT=FILE EVALUATION_TEXT=FILE    other texts than the example's
set -eu
cd "$(dirname "$0")/../../.."
. tests/bench/prepare.sh

here=tests/bench/speed
samples=${SAMPLES:-32} windows=${WINDOWS:-0} results=${RESULTS:-build/bench/RESULTS.md}
peers=${PEERS:-} budget=${BUDGET:-420} limit=${LIMIT:-1800}

# named TOOL RECIPE: whether PEERS has it; "gptq" is short for "int4-gptq".
named() {
    case " $peers " in *" $1:$2 "* | *" $1:${2#int4-} "*) return 0 ;; *) return 1 ;; esac
}

list=""
if [ "${1:-}" = --list ]; then list=yes && shift; fi

# What was asked for has to exist.
for peer in $peers; do
    found=""
    while read -r _ tool recipe; do
        case $peer in "$tool:$recipe" | "$tool:${recipe#int4-}") found=yes ;; esac
    done <$here/jobs.txt
    [ -n "$found" ] || {
        echo "run.sh: PEERS has $peer, and $here/jobs.txt has no such tool and recipe; it has:"
        grep -v '^ *#' $here/jobs.txt | while read -r _ tool recipe; do
            [ "$tool" = quantpipe ] || echo "  $tool:$recipe"
        done
        exit 2
    } >&2
done

# The lines of jobs.txt that are run.
jobs=$(mktemp) wanted=" "
trap 'rm -f "$jobs" "$jobs.spent"' EXIT
while read -r job tool words; do
    case $job in '' | '#'*) continue ;; esac
    if [ "$tool" != quantpipe ] && named "$tool" "$words"; then wanted="$wanted$job "; fi
done <$here/jobs.txt
while read -r job tool words; do
    case $job in '' | '#'*) continue ;; esac
    if [ $# -gt 0 ]; then
        case " $* " in *" $job "*) ;; *) continue ;; esac
    elif [ -n "$peers" ]; then
        case $wanted in *" $job "*) ;; *) continue ;; esac
    fi
    if [ "$tool" = quantpipe ] || named "$tool" "$words"; then echo "$job $tool $words"; fi
done <$here/jobs.txt >"$jobs"
[ -s "$jobs" ] || { echo "run.sh: no such job in $here/jobs.txt" >&2 && exit 2; }
if [ -n "$list" ]; then cat "$jobs" && exit; fi

prepare_model
if [ -n "$peers" ] || [ "$windows" -gt 0 ]; then prepare; fi
if [ -n "$peers" ]; then form=bf16 BENCH_MODEL="$PWD/$model"; else form=gguf BENCH_MODEL="$PWD/$gguf"; fi
export BENCH_MODEL
work=build/bench/$form-$samples
mkdir -p "$work"
build/bin/quantpipe doctor --bench >"$work/doctor.log" 2>&1 ||
    echo "the machine's peaks were not measured ($work/doctor.log): the column of the roofline stays empty"

# measured SECONDS TOOL OUTPUT WORD...: runs it under measure.py, for so long at most.
measured() {
    seconds=$1 tool=$2 output=$3
    shift 3
    if [ "$tool" = quantpipe ]; then
        set -- build/bin/quantpipe run $here/pipeline.yaml --output "$PWD/$output" --progress none \
            --set data.calibration.samples="$samples" "$@"
    else
        set -- "$(python "$tool")" "tests/bench/peers/${tool}_job.py" "$1" "$output" --model "$model" \
            --text "$CALIBRATION_TEXT" --samples "$samples"
    fi
    python3 $here/measure.py "$output.json" -- timeout --kill-after=20 "$seconds" "$@" >"$output.log" 2>&1
}

# The seconds that a run may take: what ours have left, or another tool's limit.
seconds_for() {
    if [ "$1" = quantpipe ]; then echo $((budget - $(cat "$jobs.spent"))); else echo "$limit"; fi
}

# turn NUMBER JOB TOOL WORD...: one run. The first output of each is kept, to be evaluated.
turn() {
    turn=$1 job=$2 tool=$3
    shift 3
    name=$tool
    [ "$tool" = quantpipe ] || name="$tool.$1"
    output="$work/$job/$name.$turn"
    [ -f "$output.json" ] && return
    seconds=$(seconds_for "$tool")
    if [ "$seconds" -le 0 ]; then
        echo "$job: $name, turn $turn: left out, the $budget seconds are over (BUDGET)"
        return
    fi
    rm -rf "$output" "$output.run"
    mkdir -p "$work/$job"
    echo "$job: $name, turn $turn"
    begun=$(date +%s) code=0
    measured "$seconds" "$tool" "$output" "$@" || code=$?
    [ "$tool" != quantpipe ] || echo $(($(cat "$jobs.spent") + $(date +%s) - begun)) >"$jobs.spent"
    if [ "$code" -eq 0 ]; then
        [ "$turn" = 1 ] || rm -rf "$output"
    elif [ "$code" -eq 124 ]; then
        rm -f "$output.json"
        echo "$job: $name was ended after $seconds seconds ($([ "$tool" = quantpipe ] && echo BUDGET || echo LIMIT))"
    else
        tail -n 5 "$output.log"
        echo "$job: $name failed ($output.log), going on without it"
    fi
}

echo 0 >"$jobs.spent"
cut -d ' ' -f 2 "$jobs" | sort -u | while read -r tool; do
    [ "$tool" = quantpipe ] || environment "$tool" "tests/bench/peers/$tool.txt" </dev/null
done
for job in $(cut -d ' ' -f 1 "$jobs" | uniq); do
    for number in $(seq "${RUNS:-1}"); do
        grep "^$job " "$jobs" | while read -r line; do
            # shellcheck disable=SC2086  # a job is words
            turn "$number" $line </dev/null
        done
    done
done

touch "$work/scores.jsonl"
for output in "$work"/*/*.1; do
    name=${output#"$work"/}
    if [ "$windows" -eq 0 ] || [ ! -f "$output/config.json" ]; then continue; fi
    grep -q "\"name\": \"$name\"" "$work/scores.jsonl" && continue
    "$(python interop)" tests/bench/accuracy/evaluate.py --reference "$model" --text "$EVALUATION_TEXT" \
        --windows "$windows" --cache "$work" "$name=$output" 2>"$work/evaluate.log" >>"$work/scores.jsonl" ||
        { tail -n 20 "$work/evaluate.log" && exit 1; }
done
python3 $here/table.py "$work" "$results" --samples "$samples" --model "$form"
