"""usage: tokens.py [--build BUILD] [--text TEXT] [TOKENIZER[=TOKENIZER2]...]   compares token ids with the package's

TOKENIZER is a tokenizer.json, or a folder with one; TOKENIZER2 is a tokenizer.json or .gguf of the same tokenizer, and
is compared as well. A SentencePiece-style TOKENIZER (byte fallback) is also written as a GGUF file, with scores in
place of merges, and compared. Without tokenizers: examples/tiny and examples/smollm2/model where they are there.
Prints one PASS or FAIL line a tokenizer.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import gguf
import numpy as np
from tokenizers import Tokenizer

ROOT = pathlib.Path(__file__).resolve().parents[2]
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6


def default_tokenizers():
    found = []
    for folder in (ROOT / "examples/tiny", ROOT / "examples/smollm2/model"):
        if (folder / "tokenizer.json").exists():
            found.append("=".join([str(folder), *map(str, folder.glob("*.gguf"))]))
    return found


def default_text():
    corpora = os.environ.get("QUANTPIPE_CORPORA")
    return f"{corpora}/wikitext2-test.txt" if corpora else str(ROOT / "tests/interop/tokens.py")


def write_gguf(tokenizer, out):
    """SentencePiece scores its pieces by the order in which training found them: minus the index of the first merge."""
    model = tokenizer["model"]
    words = sorted(model["vocab"], key=model["vocab"].get)
    rank = {}
    for i, merge in enumerate(model["merges"]):
        rank.setdefault("".join(merge if isinstance(merge, list) else merge.split(" ")), i)
    special = {t["content"] for t in tokenizer["added_tokens"]}
    kind = lambda w: (
        UNKNOWN if w == model["unk_token"] else CONTROL if w in special else BYTE if w[:3] == "<0x" else NORMAL
    )
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(words)
    writer.add_token_scores([-float(rank.get(w, len(model["merges"]))) for w in words])
    writer.add_token_types([kind(w) for w in words])
    writer.add_unk_token_id(model["vocab"][model["unk_token"]])
    writer.add_bos_token_id(model["vocab"]["<s>"])
    writer.add_eos_token_id(model["vocab"]["</s>"])
    writer.add_add_bos_token(tokenizer["post_processor"] is not None)
    writer.add_tensor("unused", np.zeros(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def ours(dump, tokenizer, text, folder):
    start = time.monotonic()
    subprocess.run([dump, tokenizer, text, f"{folder}/ids"], check=True)
    return np.fromfile(f"{folder}/ids", np.int32), time.monotonic() - start


def compare(dump, names, text, folder):
    if pathlib.Path(names[0]).is_dir():
        names[0] += "/tokenizer.json"
    with open(text, "rb") as f:
        expected = np.array(Tokenizer.from_file(names[0]).encode(f.read().decode(errors="replace")).ids, np.int32)
    with open(names[0]) as f:
        tokenizer = json.load(f)
    if tokenizer["model"].get("byte_fallback"):
        names.append(f"{folder}/scores.gguf")
        write_gguf(tokenizer, names[-1])
    good = True
    for name in names:
        ids, seconds = ours(dump, name, text, folder)
        same = np.array_equal(ids, expected)
        good = good and same
        print(
            f"{'PASS' if same else 'FAIL'} tokens {name}: {len(ids)} ids of {text}, {len(expected)} by the tokenizers "
            f"package; {seconds:.2f} s",
            flush=True,
        )
        if not same:
            n = min(len(ids), len(expected))
            at = int(np.argmax(ids[:n] != expected[:n])) if not np.array_equal(ids[:n], expected[:n]) else n
            print(f"     first difference at {at}: {ids[at:at + 8]} and {expected[at:at + 8]}")
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=str(ROOT / "build"))
    parser.add_argument("--text", default=default_text())
    parser.add_argument("tokenizers", nargs="*")
    options = parser.parse_args()
    good = True
    with tempfile.TemporaryDirectory() as folder:
        for tokenizer in options.tokenizers or default_tokenizers():
            good = compare(f"{options.build}/tests/dump_tokens", tokenizer.split("="), options.text, folder) and good
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
