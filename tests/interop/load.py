"""usage: load.py --prompt TEXT [--expect WORD] [--original FOLDER] OUTPUT...   checks outputs with transformers

For each OUTPUT, with its run folder OUTPUT.run: it loads with no missing, unexpected or mismatched tensor, both
compressed and dequantized; as loaded compressed it continues the prompt with the expected word (with corrections of
low rank beside it, which PEFT adds to linears that have a weight only, as dequantized); dequantized, its perplexity on the windows that validate used is within 0.5 % of what report.json says. Quantized activations are
simulated by compressed-tensors in both, as the checkpoint's config asks; with fewer than 8 bits the bound is 2 %. The original's perplexity is compared as well;
--original names it as a Hugging Face folder where the pipeline read something else. Prints one PASS or FAIL line a
check.
"""

import argparse
import json
import logging
import math
import pathlib
import sys
import warnings

import torch
import torch.nn.functional as F
from peft import PeftModel
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, CompressedTensorsConfig

TOLERANCE = 0.005
# A last bit that moves a 4-bit activation across a rounding boundary is amplified by all that follows: our own program
# with w4a4 differs by 1.3 % between instruction sets on the windows used here.
COARSE_TOLERANCE = 0.02
PROBLEMS = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs", "conversion_errors")

failures = 0


def check(good, name, text):
    global failures
    failures += not good
    print(f"{'PASS' if good else 'FAIL'} {name}: {text}", flush=True)


def onednn_linear(x, weight, bias=None, plain=F.linear):
    """The same float32 product as F.linear through oneDNN, which uses AVX-512 where MKL does not (about twice as
    fast there). NVFP4 weights come dequantized as BF16."""
    weight = weight.to(x.dtype)
    if x.dtype != torch.float32 or weight.dtype != torch.float32 or x.numel() // x.shape[-1] < 64:
        return plain(x, weight, bias)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), x.numel() // x.shape[-1])
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), packed, bias, "none", [], "")


def load(output, name, **options):
    """The model in float32, or None when it does not load as it should."""
    way = "dequantized" if options else "compressed"
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            output, dtype=torch.float32, output_loading_info=True, **options
        )
    except Exception as error:  # whatever transformers raises is the finding
        check(False, name, f"loads {way}: {type(error).__name__}: {error}")
        return None
    found = {key: sorted(map(str, info[key]))[:4] for key in PROBLEMS if info.get(key)}
    tensors = len(model.state_dict())
    check(not found, name, f"loads {way}, {found or 'no missing or unexpected tensor'}, {tensors} in the model")
    return None if found else model.eval()


def correct(model, folder, name):
    """The model with the corrections added that lie in the folder."""
    wrapped = PeftModel.from_pretrained(model, str(folder)).eval()
    active = [n for n, _ in wrapped.named_parameters() if ".lora_B." in n]
    stored = len(load_file(folder / "adapter_model.safetensors")) // 2
    check(len(active) == stored > 0, name, f"corrections active in {len(active)} linears, of {stored} stored")
    return wrapped.get_base_model()


def generate(model, tokenizer, prompt, expected, name):
    """Greedy continuation: it must have the word that makes sense; a reader sees the rest."""
    ids = torch.tensor([tokenizer.encode(prompt).ids])
    with torch.no_grad():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False)
    text = tokenizer.decode(out[0, ids.shape[1] :].tolist())
    check(expected in text, name, f"generates {prompt!r} -> {text!r}, {expected!r} expected in it")


def windows(tokenizer, data):
    """What validate read: the text tokenized whole, cut into windows that do not overlap."""
    if data.get("seed"):
        raise ValueError("the evaluation of a checked run has no seed: its windows are the first ones")
    ids = tokenizer.encode(pathlib.Path(data["text"]).read_text(encoding="utf-8")).ids
    length = data.get("length", 512)
    count = len(ids) // length
    count = min(count, data.get("samples") or count)
    return torch.tensor(ids[: count * length]).view(count, length)


def perplexity(model, rows, batch=4):
    total = 0.0
    with torch.no_grad():
        for some in rows.split(batch):
            hidden = model.model(some, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
            for h, target in zip(hidden.split(1024), some[:, 1:].flatten().split(1024)):
                total += F.cross_entropy(model.lm_head(h).float(), target, reduction="sum").double().item()
    return math.exp(total / (rows.shape[0] * (rows.shape[1] - 1)))


def cache(model, config, name):
    """Whether a quantized KV cache has its scales and is simulated."""
    if not config["quantization_config"].get("kv_cache_scheme"):
        return
    attentions = [layer.self_attn for layer in model.model.layers]
    active = [m for m in attentions if m.quantization_status is not None and min(m.k_scale, m.v_scale) > 0]
    check(len(active) == len(attentions), name, f"quantized KV cache simulated in {len(active)} layers")


def activations(model, config, name):
    """Whether every linear whose scheme quantizes its input does so when it runs."""
    schemes = [(m, getattr(m, "quantization_scheme", None)) for m in model.modules() if isinstance(m, torch.nn.Linear)]
    asked = [m for m, scheme in schemes if scheme is not None and scheme.input_activations is not None]
    active = [m for m in asked if m.quantization_status is not None and getattr(m, "quantization_enabled", True)]
    wanted = any(group.get("input_activations") for group in config["quantization_config"]["config_groups"].values())
    good = len(active) == len(asked) and bool(active) == wanted
    check(good, name, f"quantized activations simulated in {len(active)} linears")


def original_perplexity(path, rows, measured={}):
    """Outputs of one model share it: measured once for the same windows."""
    key = str(path), rows.numpy().tobytes()
    if key not in measured:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        measured[key] = perplexity(model, rows)
    return measured[key]


def tolerance(config):
    """How far two programs may lie apart on the perplexity of a network with that quantization_config."""
    inputs = [group.get("input_activations") for group in config["quantization_config"]["config_groups"].values()]
    return COARSE_TOLERANCE if any(q and q["num_bits"] < 8 for q in inputs) else TOLERANCE


def compare(found, rows, name, what, reported, bound=TOLERANCE):
    difference = found / reported - 1
    check(
        abs(difference) <= bound,
        name,
        f"perplexity {what} {found:.4f} here, {reported:.4f} reported "
        f"({difference:+.4%}), {rows.shape[0]} windows of {rows.shape[1]}",
    )


def inspect(output, prompt, expected, original):
    name, run = output.name, output.with_name(output.name + ".run")
    entry = json.loads((run / "report.json").read_text())["outputs"][0]["perplexity"]
    pipeline = json.loads((run / "pipeline.json").read_text())  # as it ran
    tokenizer = Tokenizer.from_file(str(output / "tokenizer.json"))
    corrections = output / "low_rank"
    model = load(output, name)
    if model is not None and not corrections.exists():
        generate(model, tokenizer, prompt, expected, name)
    model = load(output, name, quantization_config=CompressedTensorsConfig(dequantize=True))
    if model is None:
        return
    if corrections.exists():
        model = correct(model, corrections, name)
        generate(model, tokenizer, prompt, expected, name)
    rows = windows(tokenizer, pipeline["data"]["evaluation"])
    config = json.loads((output / "config.json").read_text())
    activations(model, config, name)
    cache(model, config, name)
    compare(perplexity(model, rows), rows, name, "quantized", entry["quantized"], tolerance(config))
    compare(original_perplexity(original or pipeline["model"], rows), rows, name, "original", entry["original"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("outputs", nargs="*", type=pathlib.Path)
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--expect", default="")
    parser.add_argument("--original", type=pathlib.Path)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    F.linear = onednn_linear
    for output in args.outputs:
        inspect(output.absolute(), args.prompt, args.expect, args.original)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
