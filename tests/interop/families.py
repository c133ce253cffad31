"""usage: families.py [--build BUILD] [--quick | --all] [--support FILE] [FAMILY...]   each family against transformers

docs/SUPPORT.md has to have a row for each family that quantpipe knows; `--all --support docs/SUPPORT.md` writes those of
the families that are run from what was seen. For each family a few tiny random checkpoints are made with transformers: non-trivial norms and biases, windows shorter
than the text, caps, multipliers. Our float32 logits have to lie within 1e-4 of the largest logit. Then, without --quick,
the first of them is quantized (the others to int4 alone) to int4 by AWQ and GPTQ, to int8 by SmoothQuant and GPTQ, and to fp8-dynamic rounded to
nearest (--all: each format by each method, rotations too; what quantpipe refuses is noted); each output has to load in transformers with no missing, unexpected
or mismatched tensor and to have there, within 0.5 %, the mean loss that validate reported. So have two outputs of each GGUF file of the unit tests. Prints one PASS or FAIL line a check.
"""
import argparse
import itertools
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, CompressedTensorsConfig
from transformers.utils import logging

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOLERANCE = 1e-4
WINDOWS, LENGTH = 16, 40
BASE = dict(vocab_size=128, hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2)
YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=16)
FACTORS = dict(short_factor=[1.0, 1.1, 1.2, 1.3, 1.4, 1.5], long_factor=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
OPT = dict(ffn_dim=96, num_key_value_heads=4)
CASES = {
    "llama": [{}, dict(rope_parameters=YARN, tie_word_embeddings=True, attention_bias=True, mlp_bias=True, head_dim=24),
              dict(max_position_embeddings=64, rope_parameters=dict(rope_type="linear", rope_theta=1e4, factor=4.0)),
              dict(rope_parameters=dict(rope_type="llama3", rope_theta=500.0, factor=8.0, low_freq_factor=1.0,
                                        high_freq_factor=4.0, original_max_position_embeddings=32))],
    "mistral": [dict(sliding_window=5)],
    "qwen2": [{}, dict(use_sliding_window=True, sliding_window=5, max_window_layers=2)],
    "qwen3": [dict(head_dim=24), dict(head_dim=24, use_sliding_window=True, sliding_window=5, max_window_layers=1)],
    "seed_oss": [dict(head_dim=24)],
    "phi3": [dict(sliding_window=7),
             dict(partial_rotary_factor=0.75, original_max_position_embeddings=8,
                  rope_scaling=dict(rope_type="longrope", **FACTORS))],
    "glm": [dict(head_dim=16)],
    "glm4": [dict(head_dim=16)],
    "gemma": [dict(head_dim=24)],
    "gemma2": [dict(head_dim=24, query_pre_attn_scalar=20, sliding_window=5)],
    "gemma3_text": [dict(head_dim=24, query_pre_attn_scalar=20, sliding_window=5, sliding_window_pattern=3)],
    "granite": [dict(embedding_multiplier=12.0, attention_multiplier=0.0156, residual_multiplier=0.22,
                     logits_scaling=8.0)],
    "starcoder2": [dict(sliding_window=5)],
    "olmo2": [{}],
    "olmo3": [dict(sliding_window=5)],
    "exaone4": [dict(sliding_window=5, sliding_window_pattern=4)],
    "cohere2": [dict(sliding_window=5)],
    "smollm3": [{}],
    "hunyuan_v1_dense": [dict(head_dim=16)],
    "ernie4_5": [dict(head_dim=16)],
    "arcee": [{}],
    "ministral3": [dict(head_dim=24, rope_parameters=dict(YARN, llama_4_scaling_beta=0.3)),
                   dict(head_dim=24, sliding_window=5)],
    "apertus": [{}],
    "gpt2": [dict(n_embd=64, n_layer=4, n_head=4, n_positions=64)],
    "opt": [dict(OPT), dict(OPT, do_layer_norm_before=False, word_embed_proj_dim=32, enable_bias=False)],
}
# Multimodal models: what is said of the text part, and the rest.
VISION = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=4)
REST = {"gemma3": dict(vision_config=VISION, mm_tokens_per_image=4, image_token_index=127),
        "mistral3": dict(vision_config=dict(VISION, model_type="pixtral", head_dim=16), spatial_merge_size=2,
                         image_token_index=127, tie_word_embeddings=False)}
CASES["gemma3"] = [dict(CASES["gemma3_text"][0], model_type="gemma3_text")]
CASES["mistral3"] = [dict(model_type="mistral", sliding_window=5),
                     dict(CASES["ministral3"][0], model_type="ministral3", tie_word_embeddings=False)]
failures = 0


def check(good, name, text):
    global failures
    failures += not good
    print(f"{'PASS' if good else 'FAIL'} {name}: {text}", flush=True)
    return good


def class_of(family):
    return AutoModelForImageTextToText if family in REST else AutoModelForCausalLM


def copied(name):
    return "vision_tower" in name or "multi_modal_projector" in name


def make(family, changes, folder):
    """A checkpoint whose every parameter matters: gains around 1 (around 0 where 1 is added), biases, no tiny weights."""
    torch.manual_seed(0)
    keys = {**BASE, **json.loads(json.dumps(changes))}
    config = AutoConfig.for_model(family, **(dict(REST[family], text_config=keys) if family in REST else keys))
    model = class_of(family).from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            gain = "norm" in name and name.endswith("weight") and "gemma" not in family
            gain = gain or (".ln_" in name and name.endswith("weight"))
            scale = 0.2 if p.ndim == 1 else 0.7 if "embed" in name or "wte" in name else 1.2 / p.shape[-1] ** 0.5
            p.copy_(torch.randn_like(p) * scale + (1.0 if gain else 0.0))
        model.tie_weights()
    model.save_pretrained(folder)
    return model


def logits_of(build, folder, ids, vocab):
    with tempfile.TemporaryDirectory() as scratch:
        text, out = f"{scratch}/ids", f"{scratch}/logits"
        pathlib.Path(text).write_text(f"{ids.shape[0]} {ids.shape[1]}\n" + " ".join(map(str, ids.flatten().tolist())))
        run = subprocess.run([f"{build}/tests/dump_logits", folder, text, out], capture_output=True, text=True)
        if run.returncode:
            raise RuntimeError(run.stderr.strip())
        return np.fromfile(out, np.float32).reshape(*ids.shape, vocab)


def compare_logits(build, name, model, folder):
    ids = torch.randint(3, BASE["vocab_size"], (2, LENGTH), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(ids).logits.numpy()
    try:
        found = logits_of(build, folder, ids, expected.shape[-1])
    except RuntimeError as error:
        return check(False, name, str(error))
    worst = np.abs(found - expected).max() / np.abs(expected).max()
    return check(worst <= TOLERANCE, name, f"logits within {worst:.1e} of the largest")


METHODS = {
    "rotate+rtn": ["rotate.with.r1=true", "quantize.with.method=rtn"],
    "rtn": ["quantize.with.method=rtn"],
    "smoothquant+gptq": ["smooth.with.method=smoothquant", "quantize.with.method=gptq"],
    "awq+gptq": ["search.with.method=awq", "quantize.with.method=gptq"],
}


def pipeline(folder, output, scheme, method, ids):
    stages = {"load": {}, "calibrate": {"from": "load"}, "smooth": {"from": "calibrate", "with": {"method": "none"}},
              "search": {"from": "smooth", "with": {"method": "none"}}, "quantize": {"from": "search", "with": {}},
              "validate": {"from": "quantize"}, "export": {"from": "validate"}}
    if method.startswith("rotate"):
        stages["rotate"] = {"from": "load", "with": {}}
        stages["calibrate"]["from"] = "rotate"
    for setting in METHODS[method]:
        path, value = setting.split("=")
        value = True if value == "true" else value
        stage, _, parameter = path.split(".")
        stages[stage]["with"][parameter] = value
    data = {"text": str(ids), "length": LENGTH}
    return {"quantpipe": 1, "model": str(folder), "output": str(output), "scheme": scheme,
            "data": {"calibration": data, "evaluation": data}, "stages": stages}


SCHEMES = {"int4": {"weights": {"format": "int4", "group": 32}, "ignore": ["lm_head"]}, "int8": "int8",
           "fp8-dynamic": "fp8-dynamic"}
REFUSAL = "cannot be rotated"
GGUF_VOCAB, GGUF_RUNS = 48, [("int8", "awq+gptq"), ("fp8-dynamic", "rtn")]
USUAL = [("int4", "awq+gptq"), ("int8", "smoothquant+gptq"), ("fp8-dynamic", "rtn")]


def quantize(build, name, folder, scratch, scheme, method, ids):
    output = scratch / f"{scheme}-{method}"
    text = scratch / "pipeline.yaml"
    text.write_text(json.dumps(pipeline(folder, output, SCHEMES[scheme], method, ids)))
    run = subprocess.run([f"{build}/bin/quantpipe", "run", str(text)], capture_output=True, text=True)
    label = f"{name} {scheme} {method}"
    if run.returncode == 3 and REFUSAL in run.stderr:
        check(True, label, "refused: " + REFUSAL)
        return f"refused: {REFUSAL}"
    if not check(run.returncode == 0, label, "quantized" if run.returncode == 0 else run.stderr.strip()[-300:]):
        return "fails"
    reported = json.loads((scratch / f"{output.name}.run/report.json").read_text())["outputs"][0]["perplexity"]
    family = name.split("[")[0]
    model, info = class_of(family).from_pretrained(
        output, dtype=torch.float32, output_loading_info=True, quantization_config=CompressedTensorsConfig(dequantize=True))
    found = {k: sorted(map(str, v))[:3] for k, v in info.items() if v and "keys" in k}
    good = check(not found, label, f"loads, {found or 'no missing or unexpected tensor'}")
    if family in REST:
        before = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).state_dict()
        changed = [n for n, t in model.state_dict().items() if copied(n) and not torch.equal(t, before[n])]
        good &= check(not changed, label, f"{sum(map(copied, before))} tensors outside of the text part, changed: {changed}")
    rows = torch.tensor(np.load(ids).astype(np.int64)).view(WINDOWS, LENGTH)
    with torch.no_grad():
        logits = model.eval()(rows).logits[:, :-1].flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(logits.double(), rows[:, 1:].flatten()).item()
    difference = loss / math.log(reported["quantized"]) - 1
    good &= check(abs(difference) <= 0.005, label, f"loss {loss:.4f} here, {math.log(reported['quantized']):.4f} reported "
                  f"({difference:+.3%})")
    return "works" if good else "fails"


def run_family(build, family, depth, scratch):
    """What was seen of a family: its logits, what its sites fold into, and the verdict on each format by each method."""
    seen = {"logits": True, "sites": {}, "runs": {}}
    for i, changes in enumerate(CASES[family]):
        name, folder = f"{family}[{i}]", scratch / f"{family}-{i}"
        model = make(family, changes, folder)
        good = compare_logits(build, name, model, folder)
        seen["logits"] &= good
        if depth == "quick" or not good:
            continue
        ids = scratch / "ids.npy"
        text = torch.randint(3, BASE["vocab_size"], (WINDOWS, LENGTH), generator=torch.Generator().manual_seed(2))
        np.save(ids, text.numpy().astype(np.int32).flatten())
        made = scratch / f"{family}-{i}-made"
        made.mkdir()
        if i > 0:
            quantize(build, name, folder, made, *USUAL[0], ids)
            continue
        seen["sites"] = dict(lines_of(build, str(folder)))
        for scheme, method in itertools.product(SCHEMES, METHODS) if depth == "all" else USUAL:
            seen["runs"][scheme, method] = quantize(build, name, folder, made, scheme, method, ids)
    return seen


def run_gguf(build, path, scratch):
    """An output made of a GGUF file: what transformers reads of the config.json and tensors that quantpipe gave it."""
    made = scratch / f"{path.parent.name}-{path.stem}"
    made.mkdir()
    ids = scratch / "gguf.npy"
    np.save(ids, torch.randint(3, GGUF_VOCAB, (WINDOWS * LENGTH,), generator=torch.Generator().manual_seed(2)).numpy().astype(np.int32))
    for scheme, method in GGUF_RUNS:
        quantize(build, f"{path.parent.name}/{path.name}", path, made, scheme, method, ids)


def lines_of(build, *arguments):
    text = subprocess.run([f"{build}/tests/dump_families", *arguments], capture_output=True, text=True, check=True).stdout
    return [line.split() for line in text.splitlines()]


HEAD = """# Families

What each family of models was seen to do, on tiny random checkpoints of it. Written by
`tests/interop/families.py --all --support docs/SUPPORT.md [FAMILY...]`; `make interop` runs a part of these checks each time.

**Logits**: ours in float32 lie within 1e-4 of the largest of transformers'. **A format by a method** works when the
output loads in transformers with no missing, unexpected or mismatched tensor, and has there, within 0.5 %, the mean loss
that `validate` reported.

**Scales at** says what a scale of a site is folded into: a norm's gain, rows of the linear before it, or nothing. Where
there is nothing, smooth and search (SmoothQuant, AWQ, `joint`) leave the site as it is, and round to nearest, GPTQ and
the other methods of quantize work as everywhere: inputs of layers without a norm before attention and the MLP (OLMo 2 and
3, EXAONE 4, OPT 350M) and of `down_proj` after an activation without a gate (Starcoder 2, Arcee,
Apertus, GPT-2).

**Rotations** (`rotate` with `r1`) need a residual stream that only RMS norms read and only linears add to. Others are
refused, with what to set instead: layer norms with means, norms after attention or the MLP, multipliers of what they
add.

**GPT-2** is read as OPT, and an output is an OPT checkpoint: both compute the same, but transformers keeps GPT-2's matrices
in modules (Conv1D) that compressed-tensors passes over, and would take codes for weights. Norms with another epsilon than
1e-5 and scores that are scaled by layer are refused, as OPT has neither. GGUF has GPT-2 alone, and nothing of OPT's own.

**Multimodal models** (`gemma3`, `mistral3`): the text part is quantized, by the names that transformers has for its modules
(`model.language_model.layers.0...`); tensors of the vision tower and the projector are copied, and engines are told to
leave them alone. What the projector puts into the residual stream would have to be rotated as well, so `r1` is refused.

**GGUF** names the architecture under which a .gguf file is read; `-`: from Hugging Face folders alone. Each is
held to transformers' logits on a tiny file as llama.cpp's converter writes it (`tests/unit/golden/families_gguf.py`).

"""


def old_rows(path):
    """The rows of each family in a document as it is: [what works, what scales fold into]."""
    rows = {}
    for line in pathlib.Path(path).read_text().splitlines() if pathlib.Path(path).exists() else []:
        if line.startswith("| `"):
            rows.setdefault(line.split("`")[1], []).append(line)
    return rows


def write_support(build, path, table):
    """Families that were not run keep their rows."""
    gguf, rows = dict(lines_of(build)), old_rows(path)
    methods = [m for m in METHODS if m != "rotate+rtn"]
    columns = [f"{scheme} by {method}" for scheme in SCHEMES for method in methods]
    sites = ["attn_in", "attn_out", "mlp_in", "mlp_out"]
    for family, seen in table.items():
        runs = [seen["runs"][scheme, method] for scheme in SCHEMES for method in methods]
        turns = {seen["runs"][scheme, "rotate+rtn"].split(":")[0] for scheme in SCHEMES}
        folds = [seen["sites"].get(s, "reads attn_in") for s in sites]
        rows[family] = [f"| `{family}` | {'equal' if seen['logits'] else 'differ'} | {' | '.join(runs)} | "
                        f"{', '.join(sorted(turns))} |", f"| `{family}` | {' | '.join(folds)} | {gguf.get({'gpt2': 'opt'}.get(family, family), '-')} |"]
    known = [rows[f] for f in CASES if f in rows]
    lines = ["| family | logits | " + " | ".join(columns) + " | rotations |", "|---" * (len(columns) + 3) + "|",
             *(works for works, _ in known), "",
             "| family | " + " | ".join(f"scales at {s}" for s in sites) + " | GGUF |", "|---" * (len(sites) + 2) + "|",
             *(folds for _, folds in known)]
    pathlib.Path(path).write_text(HEAD + "\n".join(lines) + "\n")


def check_rows(build):
    text = (ROOT / "docs/SUPPORT.md").read_text()
    families = [name for name, _ in lines_of(build)]
    missing = [f for f in families if f not in CASES or f"| `{f}` |" not in text]
    check(not missing, "families", f"{len(families)} in quantpipe, without a case or a row in docs/SUPPORT.md: {missing}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=str(ROOT / "build"))
    parser.add_argument("--quick", dest="depth", action="store_const", const="quick", default="usual")
    parser.add_argument("--all", dest="depth", action="store_const", const="all")
    parser.add_argument("--support", metavar="FILE", help="write the rows of docs/SUPPORT.md; needs --all")
    parser.add_argument("families", nargs="*")
    arguments = parser.parse_args()
    if arguments.support and arguments.depth != "all":
        parser.error("--support needs --all")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    os.environ["TQDM_DISABLE"] = "1"
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        table = {family: run_family(arguments.build, family, arguments.depth, pathlib.Path(scratch))
                 for family in arguments.families or CASES}
        if not arguments.families and arguments.depth != "quick":
            golden = ROOT / "tests/unit/golden"
            for path in sorted([*golden.glob("gguf/*.gguf"), *golden.glob("gemma3/*.gguf")]):
                run_gguf(arguments.build, path, pathlib.Path(scratch))
    if arguments.support:
        write_support(arguments.build, arguments.support, table)
    check_rows(arguments.build)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
