#!/bin/sh
# Builds the kernels against oneDNN 3, where Debian has oneDNN 2, and runs their tests with it. Its headers and library
# come from PyPI, once, into the user's cache folder.
# Usage: onednn3.sh [CTEST_REGEX]: only tests of that name (kernel/)
set -eu
top=$(cd "$(dirname "$0")/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/quantpipe/onednn3
build=$top/build-onednn3
version=2023.2.0 # oneDNN 3.2, built with GCC's OpenMP

if [ ! -f "$cache/done" ]; then
    rm -rf "$cache"
    mkdir -p "$cache"
    for package in onednn-cpu-gomp onednn-devel-cpu-gomp; do
        python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$cache" "$package==$version"
    done
    for wheel in "$cache"/*.whl; do
        unzip -qo "$wheel" -d "$cache"
        rm "$wheel"
    done
    touch "$cache/done"
fi
include=$cache/onednn_devel_cpu_gomp-$version.data/data/include
library=$cache/onednn_cpu_gomp-$version.data/data/lib

cmake -G Ninja -S "$top" -B "$build" -DCMAKE_BUILD_TYPE=Release -DQUANTPIPE_WERROR=ON \
    -DCMAKE_C_COMPILER="${CC:-cc}" ${LAUNCHER:+-DCMAKE_C_COMPILER_LAUNCHER=$LAUNCHER} \
    -DDNNL_INCLUDE_DIR="$include" -DDNNL_LIBRARY="$library/libdnnl.so" >/dev/null
targets=$(cd "$top/tests/kernel" && ls ./*_test.c | sed 's/.*\/\(.*\)\.c/kernel_\1/')
# shellcheck disable=SC2086
cmake --build "$build" --parallel "${JOBS:-$(nproc)}" --target quantpipe $targets
LD_LIBRARY_PATH="$library${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export LD_LIBRARY_PATH
"$build/bin/quantpipe" doctor | grep 'oneDNN 3\.' || { echo "onednn3.sh: another oneDNN was opened" >&2; exit 1; }
ctest --test-dir "$build" --output-on-failure -R "${1:-^kernel/}"
