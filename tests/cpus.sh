#!/bin/bash
# Runs the tests that an instruction set can change under each one of QUANTPIPE_CPU that this machine has, and prints a
# table: kernels, stages, and those whole runs whose results come of kernels (label `cpu`, tests/CMakeLists.txt). Locks,
# waits, folders and messages are the same under each, and `make test` has them. Fails when a test failed. Needs a release
# build.
#   cpus.sh [LEVEL...]      only these
#   JOBS=2                  tests at a time
set -u
cd "$(dirname "$0")/.." || exit 1

levels=(portable avx2 avx512 avx512_bf16)
names=(portable AVX2 AVX-512 "AVX-512 with BF16*") # patterns: AMX is told as well
work=build/test-cpus
mkdir -p $work

# What the dispatch takes when it may go up to a level.
taken() {
    QUANTPIPE_CPU=$1 build/bin/quantpipe doctor --json | grep -A1 '"name": "libraries"' |
        sed -n 's/.*"value": "\([^,]*\),.*/\1/p'
}

status=0
table=$(printf '%-12s %7s %7s %8s' level passed failed seconds)
for i in "${!levels[@]}"; do
    level=${levels[$i]}
    [ $# -eq 0 ] || [[ " $* " == *" $level "* ]] || continue
    if [[ "$(taken "$level")" != ${names[$i]} ]]; then
        table+=$'\n'$(printf '%-12s this machine does not have it' "$level")
        continue
    fi
    echo "QUANTPIPE_CPU=$level"
    start=$SECONDS
    QUANTPIPE_CPU=$level ctest --preset release -L '^cpu$' --output-on-failure --parallel "${JOBS:-$(nproc)}" \
        2>&1 | tee "$work/$level.log" | grep -E '^ *[0-9]+/[0-9]+ .*(Failed|Timeout|Exception|Not Run)|tests passed'
    passed=$(grep -cE '^ *[0-9]+/[0-9]+ Test .* Passed ' "$work/$level.log")
    failed=$(grep -cE '^ *[0-9]+/[0-9]+ Test .*\*\*\*' "$work/$level.log")
    [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ] || status=1
    table+=$'\n'$(printf '%-12s %7d %7d %8d' "$level" "$passed" "$failed" $((SECONDS - start)))
done
printf '\n%s\nlogs: %s\n' "$table" "$work"
exit $status
