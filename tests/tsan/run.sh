#!/bin/sh
# usage: run.sh BUILD   whole runs under ThreadSanitizer, one of them with feedback; fails when any process reports a race
# Criterion cannot start under ThreadSanitizer, so the programs themselves are run. OpenMP's library is not instrumented
# and would be reported: every stage computes on one thread, which leaves its sockets' thread beside it.
set -eu
build=$1
work="$build/tsan-run"
rm -rf "$work" "$work.logs"
mkdir -p "$work.logs"
threads=""
for stage in load calibrate smooth search quantize validate export; do
    threads="$threads --set stages.$stage.place.threads=1"
done
export TSAN_OPTIONS="log_path=$work.logs/report"
for profile in "" "--profile sequential"; do
    rm -rf "$work/out"
    "$build/bin/quantpipe" run "$(dirname "$0")/../../pipeline.yaml" --output "$work/out" --progress none $threads \
        $profile --set data.calibration.samples=4 --set data.evaluation.samples=4
done
if [ -n "$(ls "$work.logs")" ]; then
    cat "$work.logs"/*
    exit 1
fi
