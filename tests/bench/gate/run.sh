#!/bin/sh
# Counts the instructions of kernels under callgrind and holds them against counts.txt: fails where one rose by more
# than 3 %. UPDATE=1 writes the file anew. Counts are those of one compiler and of AVX2, the most that valgrind knows.
set -eu
cd "$(dirname "$0")/../../.."
gate=${BUILD:-build}/tests/bench_gate
counts=tests/bench/gate/counts.txt
command -v valgrind >/dev/null || { echo "bench-gate: valgrind is missing: apt-get install valgrind" >&2; exit 2; }
export OMP_NUM_THREADS=1

found=$(mktemp)
trap 'rm -f "$found"' EXIT
for name in $("$gate"); do
    count=$(valgrind --tool=callgrind --toggle-collect=qp_gate_counted --callgrind-out-file=/dev/null "$gate" "$name" 2>&1 |
        sed -n 's/.*Collected : //p')
    [ -n "$count" ] || { echo "bench-gate: $name: callgrind counted nothing" >&2; exit 1; }
    echo "$name $count" >>"$found"
done
if [ "${UPDATE:-}" = 1 ]; then
    cp "$found" $counts
    cat $counts
    exit 0
fi
awk 'NR == FNR { was[$1] = $2; next }
    !($1 in was) { printf "%-14s %10d  not in the file: UPDATE=1 adds it\n", $1, $2; bad = 1; next }
    { change = 100 * ($2 / was[$1] - 1); worse = change > 3; bad = bad || worse
      printf "%-14s %10d  %+.1f %%%s\n", $1, $2, change, worse ? "  more than 3 % above the file" : "" }
    END { exit bad }' $counts "$found"
