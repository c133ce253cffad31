"""usage: logits.py [--build BUILD] [MODEL[=MODEL2]...]   compares our float32 logits with those of transformers

MODEL is a Hugging Face folder; MODEL2, a folder or .gguf of the same weights, is compared with MODEL's logits by
transformers as well. Without models: the golden ones of the unit tests, examples/tiny and examples/smollm2/model where
they are there. Prints one PASS or FAIL line a model.
"""
import argparse
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOLERANCE = 1e-3
WINDOWS, LENGTH = 2, 256
GOLDEN = ROOT / "tests/unit/golden/llama"


def default_models():
    models = [f"{GOLDEN}/{name}" for name in ("plain", "linear")]
    models += [f"{GOLDEN}/{name}={GOLDEN}/{name}.gguf" for name in ("biased", "llama3")]
    found = [ROOT / "examples/tiny", ROOT / "examples/smollm2/model"]
    return models + [str(folder) for folder in found if (folder / "config.json").exists()]


def ours(dump, model, ids, vocab):
    with tempfile.TemporaryDirectory() as folder:
        text, out = f"{folder}/ids", f"{folder}/logits"
        with open(text, "w") as f:
            print(*ids.shape, *ids.flatten().tolist(), file=f)
        seconds = subprocess.run([dump, model, text, out], check=True, capture_output=True, text=True).stdout
        return np.fromfile(out, np.float32).reshape(*ids.shape, vocab), float(seconds)


def compare(dump, models):
    model = AutoModelForCausalLM.from_pretrained(models[0], dtype=torch.float32).eval()
    vocab = model.config.vocab_size
    length = min(LENGTH, model.config.max_position_embeddings)
    ids = torch.randint(vocab, (WINDOWS, length), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(ids).logits.numpy()
    del model
    good = True
    for name in models:
        logits, seconds = ours(dump, name, ids, vocab)
        worst = float(np.abs(logits - expected).max())
        good = good and worst <= TOLERANCE
        print(f"{'PASS' if worst <= TOLERANCE else 'FAIL'} logits {name}: largest difference {worst:.2e}, logits up to "
              f"{np.abs(expected).max():.1f}; {ids.numel() / seconds:.0f} tokens/s", flush=True)
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=str(ROOT / "build"))
    parser.add_argument("models", nargs="*")
    arguments = parser.parse_args()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    dump = f"{arguments.build}/tests/dump_logits"
    results = [compare(dump, models.split("=")) for models in arguments.models or default_models()]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
