"""usage: gemma3.py [--build BUILD] [--text TEXT] [MODEL.gguf]   our reading of Gemma 3's GGUF against that of others

Logits against transformers', which reads the same file; its weights are rounded to BF16 first, and the scale of its
embeddings, which it computes in the weights' dtype. Token ids against SentencePiece's, whose model is put together from
the GGUF's metadata. Prints one PASS or FAIL line each.
"""
import argparse
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
from gguf import GGUFReader
from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2
from transformers import AutoModelForCausalLM
from transformers.utils import logging

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOLERANCE = 1e-4
LENGTH = 640  # more than the window
UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4


def check(good, text):
    print(f"{'PASS' if good else 'FAIL'} gemma3 {text}", flush=True)
    return good


def compare_logits(build, path, folder):
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.bfloat16().float())
        embedding = model.get_input_embeddings()
        embedding.embed_scale = embedding.embed_scale.bfloat16().float()
        ids = torch.randint(model.config.vocab_size, (1, LENGTH), generator=torch.Generator().manual_seed(1))
        ids[:, 0] = model.config.bos_token_id
        expected = model(ids).logits.numpy()
    (folder / "text").write_text(f"1 {LENGTH}\n" + " ".join(map(str, ids.flatten().tolist())))
    subprocess.run([f"{build}/tests/dump_logits", path, folder / "text", folder / "logits"], check=True,
                   stdout=subprocess.DEVNULL)
    found = np.fromfile(folder / "logits", np.float32).reshape(expected.shape)
    worst = np.abs(found - expected).max() / np.abs(expected).max()
    return check(worst <= TOLERANCE, f"logits of {LENGTH} tokens within {worst:.1e} of the largest")


def make_tokenizer(path):
    key = {n.removeprefix("tokenizer.ggml."): f.contents() for n, f in GGUFReader(path).fields.items() if "ggml" in n}
    model = sentencepiece_model_pb2.ModelProto()
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    trainer.model_type, trainer.byte_fallback = trainer.BPE, True
    for name in ("unk", "bos", "eos", "pad"):
        number = key[{"unk": "unknown", "pad": "padding"}.get(name, name) + "_token_id"]
        setattr(trainer, f"{name}_id", number)
        setattr(trainer, f"{name}_piece", key["tokens"][number])
    normalizer.name, normalizer.escape_whitespaces = "identity", True
    normalizer.add_dummy_prefix, normalizer.remove_extra_whitespaces = key["add_space_prefix"], False
    for i, (token, score, kind) in enumerate(zip(key["tokens"], key["scores"], key["token_type"])):
        kind = UNKNOWN if i == trainer.unk_id else kind
        model.pieces.add(piece=token.replace(" ", "\u2581") if kind == USER_DEFINED else token, score=score, type=kind)
    control = [t for t, kind in zip(key["tokens"], key["token_type"]) if kind == CONTROL]
    return SentencePieceProcessor(model_proto=model.SerializeToString()), control


def compare_tokens(build, path, text, folder):
    tokenizer, control = make_tokenizer(path)
    with open(text, encoding="utf-8", errors="replace", newline="") as f:
        text = f.read() + "\n\n\n  a   b\t\tc <b>x</b> \u65e5\u672c\u8a9e \U0001f642 1234 \x01 y  \n"
    for token in control:  # which SentencePiece does not look for in a text, as `tokenizers` does
        text = text.replace(token, "") if token in text else text
    (folder / "text").write_bytes(text.encode())
    subprocess.run([f"{build}/tests/dump_tokens", path, folder / "text", folder / "ids"], check=True,
                   stdout=subprocess.DEVNULL)
    found = np.fromfile(folder / "ids", np.int32)
    expected = np.array([tokenizer.bos_id()] + tokenizer.encode(text), np.int32)
    return check(np.array_equal(found, expected), f"tokens: {len(found)} ids, {len(expected)} by SentencePiece")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=str(ROOT / "build"))
    parser.add_argument("--text", default=str(ROOT / "examples/gemma3/model/evaluation.txt"))
    parser.add_argument("model", nargs="?", default=str(ROOT / "examples/gemma3/model/gemma-3-270m-Q4_K_M.gguf"))
    options = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    path = pathlib.Path(options.model)
    with tempfile.TemporaryDirectory() as folder:
        good = compare_tokens(options.build, path, options.text, pathlib.Path(folder))
        return 0 if compare_logits(options.build, path, pathlib.Path(folder)) and good else 1


if __name__ == "__main__":
    sys.exit(main())
