"""usage: evaluate.py --reference FOLDER --text FILE [--windows 16] [--length 2048] [--cache FOLDER] NAME=FOLDER...

Perplexity, KL divergence to the reference and top-1 agreement of checkpoints, all by one evaluator that is no
quantizer's own: transformers in float32, with quantized activations and KV caches simulated (checkpoints.py). Text is
tokenized whole by the reference's tokenizer.json, without special tokens, and cut into windows that do not overlap.
One JSON object a checkpoint on stdout.
"""

import argparse
import hashlib
import json
import logging
import math
import pathlib
import warnings

import checkpoints
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

ROWS = 128  # of logits at a time: a product of 128 by 49,152 stays in the cache


def packed(weight, rows):
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), rows)


def onednn_linear(x, weight, bias=None, plain=F.linear):
    """The same float32 product as F.linear through oneDNN, which uses AVX-512 where MKL does not."""
    if x.dtype != torch.float32 or weight.dtype != torch.float32 or x.numel() // x.shape[-1] < 64:
        return plain(x, weight, bias)
    weight = packed(weight, x.numel() // x.shape[-1])
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")


def windows(reference, text, count, length):
    tokenizer = Tokenizer.from_file(str(reference / "tokenizer.json"))
    ids = tokenizer.encode(text.read_text(encoding="utf-8"), add_special_tokens=False).ids
    count = min(count, len(ids) // length)
    return torch.tensor(ids[: count * length]).view(count, length)


def hidden_states(model, rows, cached):
    """Final hidden states [windows, length - 1, hidden]. A quantized KV cache acts only when there is a cache."""
    with torch.no_grad():
        return torch.cat([model.model(row[None], use_cache=cached).last_hidden_state[:, :-1] for row in rows])


def reference_states(args, rows):
    key = hashlib.sha256(str(args.reference.absolute()).encode() + rows.numpy().tobytes()).hexdigest()[:16]
    path = args.cache / f"reference-{key}.pt"
    if not path.exists():
        model, _ = checkpoints.load(args.reference)
        args.cache.mkdir(parents=True, exist_ok=True)
        torch.save({"states": hidden_states(model, rows, False), "head": model.lm_head.weight.detach()}, path)
    return torch.load(path)


def logits(states, head):
    return torch.ops.mkldnn._linear_pointwise(states.contiguous(), head, None, "none", [], "")


def score(model, reference, rows, cached):
    states = hidden_states(model, rows, cached).flatten(0, 1)
    truth, target = reference["states"].flatten(0, 1), rows[:, 1:].flatten()
    heads = packed(reference["head"], ROWS), packed(model.lm_head.weight, ROWS)
    nll = true_nll = kl = agreed = 0.0
    with torch.no_grad():
        for a in range(0, len(target), ROWS):
            p, q = logits(truth[a : a + ROWS], heads[0]), logits(states[a : a + ROWS], heads[1])
            t, sum_p, sum_q = target[a : a + ROWS, None], p.logsumexp(-1), q.logsumexp(-1)
            nll += (sum_q - q.gather(1, t)[:, 0]).double().sum().item()
            true_nll += (sum_p - p.gather(1, t)[:, 0]).double().sum().item()
            agreed += (p.argmax(-1) == q.argmax(-1)).sum().item()
            difference = p - q
            kl += (p.sub_(sum_p[:, None]).exp_().mul_(difference).sum(-1) - sum_p + sum_q).double().sum().item()
    n = len(target)
    return {
        "perplexity": math.exp(nll / n),
        "reference_perplexity": math.exp(true_nll / n),
        "kl_divergence": kl / n,
        "top1_agreement": agreed / n,
        "tokens": n,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--reference", required=True, type=pathlib.Path)
    parser.add_argument("--text", required=True, type=pathlib.Path)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--cache", type=pathlib.Path, default=pathlib.Path("build/accuracy"))
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    F.linear = onednn_linear
    rows = windows(args.reference, args.text, args.windows, args.length)
    reference = reference_states(args, rows)
    for item in args.checkpoints:
        name, folder = item.split("=", 1)
        model, cached = checkpoints.load(pathlib.Path(folder))
        size = sum(f.stat().st_size for f in pathlib.Path(folder).glob("*.safetensors"))
        print(json.dumps({"name": name, "bytes": size, **score(model, reference, rows, cached)}), flush=True)


main()
