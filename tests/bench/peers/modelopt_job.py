"""NVIDIA Model Optimizer, see job.py."""

import copy

import job
import modelopt.torch.quantization as mtq
import torch
from modelopt.torch.export import export_hf_checkpoint
from transformers import AutoModelForCausalLM, AutoTokenizer

RECIPES = {
    "fp8": mtq.FP8_DEFAULT_CFG,
    "int8-smoothquant": mtq.INT8_SMOOTHQUANT_CFG,
    "nvfp4": mtq.NVFP4_DEFAULT_CFG,
    "int4-awq": mtq.INT4_AWQ_CFG,
}


def with_group(config, group):
    """The recipe with its blocks of 128 INT4 weights cut to the group."""
    config = copy.deepcopy(config)
    for entry in config["quant_cfg"]:
        blocks = (entry.get("cfg") or {}).get("block_sizes") if isinstance(entry.get("cfg"), dict) else None
        if blocks and blocks.get(-1) == 128:
            blocks[-1] = group
    return config


def main():
    args = job.arguments(RECIPES)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype="auto").eval()
    rows = torch.tensor(job.windows(args))

    def forward(model):
        with torch.no_grad():
            for row in rows:
                model(row[None], use_cache=False)

    mtq.quantize(model, with_group(RECIPES[args.recipe], args.group), forward)
    with torch.no_grad():
        export_hf_checkpoint(model, export_dir=args.output)
    AutoTokenizer.from_pretrained(args.model).save_pretrained(args.output)


main()
