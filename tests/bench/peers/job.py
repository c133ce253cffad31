"""What the jobs of all peers share: their command line and the calibration tokens.

NAME_job.py RECIPE FOLDER --model FOLDER --text FILE [--samples 128] [--length 512] [--group 64]
quantizes a model with one recipe of one tool into FOLDER. The tokens are those that quantpipe takes with seed 0: the
first windows of the text, tokenized whole, without special tokens.
"""

import argparse
import pathlib

from tokenizers import Tokenizer


def arguments(recipes):
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe", choices=recipes)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--model", required=True, type=pathlib.Path)
    parser.add_argument("--text", required=True, type=pathlib.Path)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--group", type=int, default=64)
    return parser.parse_args()


def windows(args):
    """args.samples lists of args.length token ids."""
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    ids = tokenizer.encode(args.text.read_text(encoding="utf-8"), add_special_tokens=False).ids
    count = len(ids) // args.length
    if count < args.samples:
        raise SystemExit(f"{args.text} has {count} windows of {args.length} tokens, {args.samples} are wanted")
    return [ids[i * args.length : (i + 1) * args.length] for i in range(args.samples)]
