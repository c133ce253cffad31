# What the benchmarks stand on, made once; sourced by their run.sh from the root of the repository.
#   $gguf       SmolLM2-135M-Instruct as it comes, 4 bits a weight
#   $model      the same as a Hugging Face folder in BF16
#   python NAME the interpreter of tool NAME's virtual environment: "interop", or a file peers/NAME.txt
# shellcheck shell=sh

cache="${XDG_CACHE_HOME:-$HOME/.cache}/quantpipe"
gguf=examples/smollm2/model/SmolLM2-135M-Instruct.gguf
model=build/reference/SmolLM2-135M-Instruct
texts="$PWD/examples/smollm2/model"
export CALIBRATION_TEXT="${CALIBRATION_TEXT:-$texts/calibration.txt}"
export EVALUATION_TEXT="${EVALUATION_TEXT:-$texts/evaluation.txt}"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

python() {
    case $1 in interop) echo "$cache/interop/bin/python" ;; *) echo "$cache/bench-$1/bin/python" ;; esac
}

# environment NAME REQUIREMENTS: kept as long as the requirements are the same. uv links equal packages of several
# environments to one copy on the disk.
environment() {
    folder=$(dirname "$(dirname "$(python "$1")")")
    stamp=$(sha256sum "$2" | cut -d ' ' -f 1)
    [ "$(cat "$folder/stamp" 2>/dev/null)" = "$stamp" ] && return
    echo "making $folder"
    if [ ! -x "$cache/uv/bin/uv" ]; then
        python3 -m venv "$cache/uv" && "$cache/uv/bin/pip" install --quiet --disable-pip-version-check uv==0.13.9
    fi
    [ -x "$folder/bin/python" ] || "$cache/uv/bin/uv" venv --quiet --python python3 "$folder"
    "$cache/uv/bin/uv" pip install --quiet --python "$folder/bin/python" --requirement "$2"
    echo "$stamp" >"$folder/stamp"
}

# What needs no environment: the program, $gguf and the texts.
prepare_model() {
    examples/smollm2/get.sh
    if [ ! -x build/bin/quantpipe ]; then
        echo "build/bin/quantpipe is missing: run make build" >&2
        exit 1
    fi
}

# And $model, which a Python library makes of $gguf.
prepare() {
    prepare_model
    environment interop tests/interop/requirements.txt
    if [ ! -f "$model/tokenizer.json" ]; then
        mkdir -p "$model"
        "$(python interop)" tests/interop/reference.py "$gguf" "$model" >"$model.log" 2>&1 ||
            { cat "$model.log" && exit 1; }
    fi
}
