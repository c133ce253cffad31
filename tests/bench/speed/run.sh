#!/bin/sh
# Time and memory of quantpipe beside other tools, on one model, the same calibration tokens and one machine: the
# tools of a job take turns, RUNS times, and the medians go into the tables of tests/bench/RESULTS.md. `make bench`
# runs this. What is there already is kept, so a run that was stopped goes on; remove build/bench to begin anew.
#   run.sh [JOB...]            only these jobs of jobs.txt
#   PEERS=0 run.sh             quantpipe alone (else 8 GB of packages, and a day of CPU)
#   RUNS=3 SAMPLES=128 WINDOWS=16    turns, calibration windows of 512 tokens, evaluation windows of 2048 (0: none)
#   RESULTS=FILE               another file than tests/bench/RESULTS.md; its lines between "<!-- speed -->" are replaced
#   CALIBRATION_TEXT=FILE EVALUATION_TEXT=FILE    other texts than the example's
set -eu
cd "$(dirname "$0")/../../.."
. tests/bench/prepare.sh

here=tests/bench/speed
work=build/bench
samples=${SAMPLES:-128} windows=${WINDOWS:-16}

prepare
mkdir -p "$work"
export BENCH_MODEL="$PWD/$model"
build/bin/quantpipe doctor --bench >"$work/doctor.log" 2>&1 ||
    echo "the machine's peaks were not measured ($work/doctor.log): the column of the floor stays empty"
jobs=$(mktemp)
trap 'rm -f "$jobs"' EXIT
grep -v '^ *#' $here/jobs.txt | while read -r job tool words; do
    [ "$tool" = quantpipe ] || [ "${PEERS:-1}" = 1 ] || continue
    if [ $# -gt 0 ]; then case " $* " in *" $job "*) ;; *) continue ;; esac fi
    echo "$job $tool $words"
done >"$jobs"
[ -s "$jobs" ] || { echo "run.sh: no such job in $here/jobs.txt" >&2 && exit 2; }

# command TOOL OUTPUT WORD...: runs it under measure.py.
measured() {
    tool=$1 output=$2
    shift 2
    if [ "$tool" = quantpipe ]; then
        set -- build/bin/quantpipe run $here/pipeline.yaml --output "$PWD/$output" --progress none \
            --set data.calibration.samples="$samples" "$@"
    else
        set -- "$(python "$tool")" "tests/bench/peers/${tool}_job.py" "$1" "$output" --model "$model" \
            --text "$CALIBRATION_TEXT" --samples "$samples"
    fi
    python3 $here/measure.py "$output.json" -- "$@" >"$output.log" 2>&1
}

# turn NUMBER JOB TOOL WORD...: one run. The first output of each is kept, to be evaluated.
turn() {
    turn=$1 job=$2 tool=$3
    shift 3
    name=$tool
    [ "$tool" = quantpipe ] || name="$tool.$1"
    output="$work/$job/$name.$turn"
    [ -f "$output.json" ] && return
    rm -rf "$output" "$output.run"
    mkdir -p "$work/$job"
    echo "$job: $name, turn $turn"
    if measured "$tool" "$output" "$@"; then
        [ "$turn" = 1 ] || rm -rf "$output"
    else
        tail -n 5 "$output.log"
        echo "$job: $name failed ($output.log), going on without it"
    fi
}

cut -d ' ' -f 2 "$jobs" | sort -u | while read -r tool; do
    [ "$tool" = quantpipe ] || environment "$tool" "tests/bench/peers/$tool.txt" </dev/null
done
for job in $(cut -d ' ' -f 1 "$jobs" | uniq); do
    for number in $(seq "${RUNS:-3}"); do
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
python3 $here/table.py "$work" "${RESULTS:-tests/bench/RESULTS.md}" --samples "$samples"
