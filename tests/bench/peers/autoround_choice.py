"""usage: autoround_choice.py FOLDER --model FOLDER --text FILE --bits 4.0 4.5 ... [--formats 3 4 5 6 8] [--samples 16] [--fused]

Which width auto-round's AutoScheme gives each linear, for several budgets of stored bits a weight: FOLDER/BITS.yaml
is each choice as a scheme of quantpipe, so that one quantizer can run both choices. With --fused linears that engines
load as one matrix (q, k, v; gate, up) get one width: its own option `shared_layers`. Symmetric integers in groups: a
scale of 16 bits a group is counted, for all widths alike, by taking it off the budget.
"""

import argparse
import json
import pathlib

import torch
from auto_round import AutoScheme
from auto_round.auto_scheme.gen_auto_scheme import GenScheme
from auto_round.schemes import QuantizationScheme
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer


FUSED = [["q_proj", "k_proj", "v_proj"], ["gate_proj", "up_proj"]]


def texts(args):
    """A file of its kind of data set: the first windows of the text, each a little longer than it will be cut."""
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    ids = tokenizer.encode(args.text.read_text(encoding="utf-8"), add_special_tokens=False).ids
    step = args.length + 64
    rows = [tokenizer.decode(ids[i * step : (i + 1) * step]) for i in range(args.samples)]
    path = args.output / "texts.json"
    path.write_text(json.dumps(rows))
    return str(path.absolute())


def as_scheme(bits, choice, group):
    lines = [f"# auto-round's choice at {bits} bits a weight", f"weights: {{format: int8, group: {group}}}", "rules:"]
    for name, layer in sorted(choice.items()):
        lines.append(f"  - {{match: {name}, weights: {{format: int{layer['bits']}, group: {group}}}}}")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--model", required=True, type=pathlib.Path)
    parser.add_argument("--text", required=True, type=pathlib.Path)
    parser.add_argument("--bits", required=True, type=float, nargs="+")
    parser.add_argument("--formats", type=int, nargs="+", default=[3, 4, 5, 6, 8])
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--group", type=int, default=64)
    parser.add_argument("--fused", action="store_true")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype="auto")
    linears = {
        name: module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }
    scheme = AutoScheme(
        avg_bits=[bits - 16 / args.group for bits in args.bits],
        options=[QuantizationScheme(bits=bits, group_size=args.group, sym=True, act_bits=16) for bits in args.formats],
        ignore_scale_zp_bits=True,
        shared_layers=FUSED if args.fused else None,
        nsamples=args.samples,
        seqlen=args.length,
        batch_size=4,
    )
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    choices = GenScheme(
        scheme, model, list(linears), {}, dataset=texts(args), device_map="cpu", tokenizer=tokenizer
    ).get_layer_config()
    for bits, choice in zip(args.bits, choices.values()):
        choice = {name: layer for name, layer in choice.items() if name in linears}
        stored = sum(linears[name] * layer["bits"] for name, layer in choice.items()) / sum(linears.values())
        (args.output / f"{bits:g}.yaml").write_text(as_scheme(f"{stored + 16 / args.group:.4f}", choice, args.group))
        print(f"{bits:g}: {stored + 16 / args.group:.4f} bits a weight, {len(choice)} linears", flush=True)


if __name__ == "__main__":
    main()
