#!/bin/sh
# From nothing to a stage of one's own in a run, and how long that takes: start.sh [QUANTPIPE [PYTHON [FOLDER]]]
# The model is the embedded one.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
quantpipe=${1:-quantpipe} python=${2:-python3} folder=${3:-$(mktemp -d)}
export PYTHONPATH="$folder/site"
begun=$(date +%s)

cp -r "$here" "$folder/package"                                                                             # 1
"$python" -m pip install --quiet --disable-pip-version-check --target "$folder/site" "$folder/package"      # 2
cd "$folder"                                                                                                # 3
"$quantpipe" init stage mine --language python                                                              # 4
cd mine                                                                                                     # 5
"$python" -m unittest                                                                                       # 6
stage="stages.mine={run: [$python, mine.py], from: load, with: {limit: 15}}"                                # 7
"$quantpipe" check pipeline.yaml --model "$here/../tiny" --output out --set "$stage"                        # 8
"$quantpipe" run pipeline.yaml --model "$here/../tiny" --output out --set "$stage"                          # 9

echo "nine commands, $(($(date +%s) - begun)) s: $folder/mine/out"
