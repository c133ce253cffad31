#!/bin/bash
# Compares methods on the embedded model: each row is a way to calibrate, search or quantize, run with several seeds (each
# seed chooses other calibration windows), everything in float32. Prints the median and the spread (least to largest) of
# the KL divergence on the whole evaluation text, and in how many seeds it was below that of the row it is compared with.
# A difference smaller than the spread says nothing. Needs a release build; about 10 minutes on two cores.
#   methods.sh [ROW...]      only these rows, and those they are compared with
#   SEEDS="1 2 3 4 5"        the seeds
#   SAMPLES=32               calibration windows of 512 tokens
set -eu
cd "$(dirname "$0")/../../.."

seeds=${SEEDS:-1 2 3}
samples=${SAMPLES:-32}
work=build/methods
rm -rf "$work"
mkdir -p "$work"

# NAME BASE SCHEME ARGUMENT...
rows='
rtn              -                int3-g32  --set stages.quantize.with.method=rtn --set stages.quantize.with.scales=minmax
rtn-mse          rtn              int3-g32  --set stages.quantize.with.method=rtn --set stages.quantize.with.scales=mse
gptq-alone       rtn              int3-g32  --set stages.quantize.with.scales=minmax --set stages.quantize.with.coordinate_descent=0
gptq-weighted    gptq-alone       int3-g32  --set stages.quantize.with.coordinate_descent=0
gptq             gptq-weighted    int3-g32
sweeps-1         gptq-weighted    int3-g32  --set stages.quantize.with.coordinate_descent=1
sweeps-2         sweeps-1         int3-g32  --set stages.quantize.with.coordinate_descent=2
sweeps-8         gptq             int3-g32  --set stages.quantize.with.coordinate_descent=8
awq              gptq             int3-g32  --set stages.search.with.method=awq
awq-duo          awq              int3-g32  --set stages.search.with.method=awq --set stages.search.with.form=duo
joint            awq              int3-g32  --set stages.search.with.method=joint
sequential       gptq             int3-g32  --profile sequential
asymmetric       sequential       int3-g32  --profile sequential --set stages.quantize.with.asymmetric=0.5
true             sequential       int3-g32  --profile true_sequential
true-asymmetric  true             int3-g32  --profile true_sequential --set stages.quantize.with.asymmetric=0.25
low-rank         gptq             int3-g32  --set stages.quantize.with.low_rank=16
low-rank-errors  gptq             int3-g32  --set stages.quantize.with.low_rank=16 --set stages.quantize.with.low_rank_fit=errors
gptq-int4        -                int4-g128
awq-int4         gptq-int4        int4-g128 --set stages.search.with.method=awq
nvfp4            -                nvfp4
nvfp4-low-rank   nvfp4            nvfp4     --set stages.quantize.with.low_rank=16
'

scheme_of() {
    case $1 in
        int3-g32) echo 'scheme={weights: {format: int3, group: 32}}' ;;
        int4-g128) echo 'scheme={weights: {format: int4, group: 128}}' ;;
        *) echo "scheme=$1" ;;
    esac
}

# run NAME SEED SCHEME ARGUMENT...: appends the KL divergence to $work/NAME.
run() {
    local name=$1 seed=$2 scheme=$3 output
    shift 3
    output=$work/$name-$seed
    build/bin/quantpipe run pipeline.yaml --output "$output" --progress none --set "$(scheme_of "$scheme")" \
        --set data.calibration.samples="$samples" --set data.calibration.seed="$seed" \
        --set stages.calibrate.with.compute=fp32 --set stages.validate.with.compute=fp32 \
        --set stages.search.with.method=none "$@" >"$output.log" 2>&1 || { cat "$output.log" && exit 1; }
    grep -m1 -o '"kl_divergence": *[0-9.e+-]*' "$output.run/report.json" | sed 's/.*: *//' >>"$work/$name"
    rm -rf "$output" "$output.run"
}

wanted() { # NAME: asked for, or compared with what is
    [ -z "$asked" ] || [[ " $asked " == *" $1 "* ]] || grep -qE "^($(echo "$asked" | tr ' ' '|')) +$1 " <<<"$rows"
}

asked="$*"
while read -r name base scheme arguments; do
    [ -n "$name" ] && wanted "$name" || continue
    # shellcheck disable=SC2086  # arguments are words
    for seed in $seeds; do run "$name" "$seed" "$scheme" $arguments </dev/null; done
    awk -v name="$name" -v base="$base" '
        FNR == NR { value[++n] = $1; next }
        { other[FNR] = $1 }
        END {
            for (i = 1; i <= n; i++) { sorted[i] = value[i]; below += value[i] < other[i] }
            for (i = 2; i <= n; i++)
                for (j = i; j > 1 && sorted[j] < sorted[j - 1]; j--) { t = sorted[j]; sorted[j] = sorted[j - 1]; sorted[j - 1] = t }
            median = n % 2 ? sorted[(n + 1) / 2] : (sorted[n / 2] + sorted[n / 2 + 1]) / 2
            printf "| %s | %.5f | %.5f to %.5f | %s |\n", name, median, sorted[1], sorted[n],
                base == "-" ? "" : sprintf("%s: %d of %d", base, below, n)
        }' "$work/$name" "$([ "$base" = - ] && echo /dev/null || echo "$work/$base")" >>"$work/table"
done <<<"$rows"
printf '| method | KL, median | least to largest | below |\n| --- | --- | --- | --- |\n'
cat "$work/table"
