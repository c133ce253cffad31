"""usage: peers.py RECIPE FOLDER --model FOLDER --text FILE [--samples 128] [--length 512] [--group 64]

Quantizes a model with llm-compressor on the same calibration tokens that quantpipe takes: the first windows of the text,
tokenized whole, without special tokens. RECIPE is one of the keys of RECIPES. Run by run.sh.
"""

import argparse
import pathlib
import sys

import torch
from compressed_tensors.quantization import preset_name_to_scheme
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.smoothquant import SmoothQuantModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

# llm-compressor 0.14 pins memory of its caches unconditionally, which torch refuses without a CUDA driver.
if not torch.cuda.is_available():
    torch.Tensor.pin_memory = lambda self, *args, **kwargs: self

KV_FP8 = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False, "symmetric": True}
COMMON = {"ignore": ["lm_head"]}


def grouped(preset, group):
    scheme = preset_name_to_scheme(preset, ["Linear"])
    scheme.weights.group_size = group
    return {"config_groups": {"group_0": scheme}, **COMMON}


def named(preset, **more):
    return {"targets": "Linear", "scheme": preset, **COMMON, **more}


RECIPES = {
    "int4-rtn": lambda g: QuantizationModifier(**grouped("W4A16", g)),
    "int4-asym-rtn": lambda g: QuantizationModifier(**grouped("W4A16_ASYM", g)),
    "int4-gptq": lambda g: GPTQModifier(**grouped("W4A16", g)),
    "int3-gptq": lambda g: GPTQModifier(**grouped("W3A16", g)),
    "int4-asym-awq": lambda g: [AWQModifier(), QuantizationModifier(**grouped("W4A16_ASYM", g))],
    "int8-smoothquant-gptq": lambda g: [SmoothQuantModifier(smoothing_strength=0.8), GPTQModifier(**named("W8A8"))],
    "fp8-dynamic-rtn": lambda g: QuantizationModifier(**named("FP8_DYNAMIC")),
    "fp8-kv-rtn": lambda g: QuantizationModifier(**named("FP8", kv_cache_scheme=KV_FP8)),
    "nvfp4-rtn": lambda g: QuantizationModifier(**named("NVFP4")),
}


def calibration(args):
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    ids = tokenizer.encode(args.text.read_text(encoding="utf-8"), add_special_tokens=False).ids
    rows = [ids[i * args.length : (i + 1) * args.length] for i in range(args.samples)]
    return Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", choices=RECIPES)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--model", required=True, type=pathlib.Path)
    parser.add_argument("--text", required=True, type=pathlib.Path)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--group", type=int, default=64)
    args = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    data = {}
    if not args.recipe.endswith("-rtn") or args.recipe in ("fp8-kv-rtn", "nvfp4-rtn"):
        data = {
            "dataset": calibration(args),
            "num_calibration_samples": args.samples,
            "max_seq_length": args.length,
            "shuffle_calibration_samples": False,
            "batch_size": 1,
        }
    oneshot(model=model, recipe=RECIPES[args.recipe](args.group), tokenizer=tokenizer, **data)
    model.save_pretrained(args.output, save_compressed=True)
    tokenizer.save_pretrained(args.output)
    sys.exit(0)


main()
