"""llm-compressor, see job.py. Recipes that end in -rtn take no data, but for the ranges of static activations."""

import job
import torch
from compressed_tensors.quantization import preset_name_to_scheme
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.smoothquant import SmoothQuantModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from transformers import AutoModelForCausalLM, AutoTokenizer

# llm-compressor 0.14 pins memory of its caches unconditionally, which torch refuses without a CUDA driver.
if not torch.cuda.is_available():
    torch.Tensor.pin_memory = lambda self, *args, **kwargs: self

KV_FP8 = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False, "symmetric": True}
COMMON = {"ignore": ["lm_head"]}
DATA_FREE = {"int3-rtn", "int4-rtn", "int4-asym-rtn", "fp8-dynamic-rtn"}


def grouped(preset, group):
    scheme = preset_name_to_scheme(preset, ["Linear"])
    scheme.weights.group_size = group
    return {"config_groups": {"group_0": scheme}, **COMMON}


def named(preset, **more):
    return {"targets": "Linear", "scheme": preset, **COMMON, **more}


RECIPES = {
    "int3-rtn": lambda g: QuantizationModifier(**grouped("W3A16", g)),
    "int3-gptq": lambda g: GPTQModifier(**grouped("W3A16", g)),
    "int4-rtn": lambda g: QuantizationModifier(**grouped("W4A16", g)),
    "int4-gptq": lambda g: GPTQModifier(**grouped("W4A16", g)),
    "int4-asym-rtn": lambda g: QuantizationModifier(**grouped("W4A16_ASYM", g)),
    "int4-asym-awq": lambda g: [AWQModifier(), QuantizationModifier(**grouped("W4A16_ASYM", g))],
    "int8-smoothquant-gptq": lambda g: [SmoothQuantModifier(smoothing_strength=0.8), GPTQModifier(**named("W8A8"))],
    "fp8-dynamic-rtn": lambda g: QuantizationModifier(**named("FP8_DYNAMIC")),
    "fp8-kv-rtn": lambda g: QuantizationModifier(**named("FP8", kv_cache_scheme=KV_FP8)),
    "nvfp4-rtn": lambda g: QuantizationModifier(**named("NVFP4")),
}


def calibration(args):
    rows = job.windows(args)
    data = Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]})
    return {
        "dataset": data,
        "num_calibration_samples": args.samples,
        "max_seq_length": args.length,
        "shuffle_calibration_samples": False,
        "batch_size": 1,
    }


def main():
    args = job.arguments(RECIPES)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    data = {} if args.recipe in DATA_FREE else calibration(args)
    oneshot(model=model, recipe=RECIPES[args.recipe](args.group), tokenizer=tokenizer, **data)
    model.save_pretrained(args.output, save_compressed=True)
    tokenizer.save_pretrained(args.output)


main()
