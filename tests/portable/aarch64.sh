#!/bin/sh
# Compiles kernels/ for AArch64 and runs tests/kernel there under qemu-user, with Debian's oneDNN and OpenBLAS for arm64.
# Usage: aarch64.sh [NAME...]: only tests/kernel/NAME_test.c; `quick`: those that are emulated in ten seconds. Needs what `scripts/deps --aarch64` installs, and once the
# network: eight packages are unpacked, not installed, in the user's cache folder.
set -eu
top=$(cd "$(dirname "$0")/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/quantpipe/aarch64
build=$top/build-aarch64
cc=${AARCH64_CC:-aarch64-linux-gnu-gcc}
emulator=${AARCH64_EMULATOR:-qemu-aarch64}
for tool in "$cc" "$emulator"; do
    command -v "$tool" >/dev/null || { echo "aarch64.sh: $tool is missing: scripts/deps --aarch64" >&2; exit 1; }
done

# ---- libraries: a package database of our own, for the system's does not know arm64 ----
if [ ! -f "$cache/done" ]; then
    rm -rf "$cache"
    mkdir -p "$cache/lists/partial" "$cache/archives/partial" "$cache/root"
    : >"$cache/status"
    apt() {
        apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State="$cache" \
            -o Dir::State::status="$cache/status" -o Dir::State::lists="$cache/lists" -o Dir::Cache="$cache" \
            -o APT::Sandbox::User= -o Debug::NoLocking=1 "$@"
    }
    apt update
    apt install -y --no-install-recommends --download-only libdnnl2 libopenblas0-openmp libc6 >/dev/null
    for package in "$cache"/archives/*.deb; do
        dpkg-deb -x "$package" "$cache/root"
    done
    ln -sf openblas-openmp/libopenblas.so.0 "$cache/root/usr/lib/aarch64-linux-gnu/libopenblas.so.0"
    touch "$cache/done"
fi

# ---- headers of those libraries: the same on all processors ----
rm -rf "$build"
mkdir -p "$build/include"
for header in oneapi lapack.h lapacke.h lapacke_config.h lapacke_mangling.h lapacke_utils.h; do
    ln -s "/usr/include/$header" "$build/include/$header"
done
for folder in $(pkg-config --cflags-only-I openblas | sed 's/-I//g'); do
    for header in cblas.h openblas_config.h; do
        [ ! -f "$folder/$header" ] || ln -sf "$folder/$header" "$build/include/$header"
    done
done

# ---- the program ----
flags="-std=c11 -O2 -g -Wall -Wextra -Wpedantic -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Werror
-ffp-contract=off -fno-math-errno -fopenmp -D_GNU_SOURCE -I$top -I$build/include
-DQP_DNNL_NAME=\"libdnnl.so.2\" -DQP_DNNL_PATH=\"libdnnl.so\"
-DQP_OPENBLAS_NAME=\"libopenblas.so.0\" -DQP_OPENBLAS_PATH=\"libopenblas.so\""
for source in "$top"/kernels/*.c "$top"/kernels/cpu/*.c; do
    object=$build/$(basename "$(dirname "$source")")_$(basename "$source" .c).o
    echo "$source -o $object"
done >"$build/sources"
objects=$(sed 's/.* //' "$build/sources")
# shellcheck disable=SC2086
xargs -P "$(nproc)" -L 1 $cc $flags -c <"$build/sources"

# ---- the tests; OpenMP of the compiler that is emulated, and few threads ----
failed=""
[ $# -gt 0 ] || set -- $(cd "$top/tests/kernel" && ls ./*_test.c | sed 's/_test\.c//; s/^\.\///')
if [ "$*" = quick ]; then
    set -- casts column_stats elementwise failure gated gptq linear_int8 logits low_rank norm pack quantize rope
fi
for name in "$@"; do
    program=$build/${name}_test
    # shellcheck disable=SC2086
    $cc $flags -Wno-pedantic -DSOURCE_DIR="\"$top\"" -I"$top/tests/portable" "$top/tests/kernel/${name}_test.c" \
        $objects -o "$program" -ldl -lm
    printf '%s: ' "$name"
    begun=$(date +%s)
    OMP_NUM_THREADS=2 "$emulator" -L "$cache/root" \
        -E LD_LIBRARY_PATH="$cache/root/usr/lib/aarch64-linux-gnu" "$program" || failed="$failed $name"
    echo "$name: $(($(date +%s) - begun)) s"
done
[ -z "$failed" ] || { echo "aarch64.sh: failed:$failed" >&2; exit 1; }
