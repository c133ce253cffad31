"""usage: exact_modelopt.py OUTPUT.json   what NVIDIA Model Optimizer 0.47 makes of examples/tiny, for quantize_exact_test.c

Wants `pip install nvidia-modelopt==0.47.0 torch==2.14.0 transformers==5.14.1 xxhash` (a CPU will do). Each preset goes
through mtq.quantize and export_hf_checkpoint. Of the linears of two layers the file has XXH3 of the codes, one byte
each, and of the scales as float32, one for each row and group, beside the numbers that there is one of.

Left out, for they do not run or export on a CPU: MXFP6 and MXINT8 (modelopt exports neither); all that runs the
fake-quantized NVFP4 network or searches its scales (four over six, the sweep, AWQ, SVDQuant: CUDA kernels). Of FP8 in
blocks only the MLP: matrices of one single block have their scales fused with their neighbours', those of real models
are larger. SmoothQuant and AWQ write scales beside the weights that this project folds into what stands before.
"""
import copy
import json
import pathlib
import sys
import tempfile

import torch
import xxhash
from modelopt.torch.export import export_hf_checkpoint
import modelopt.torch.quantization as mtq
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

ROOT = pathlib.Path(__file__).resolve().parents[3]
LAYERS = (0, 5)
PRESETS = ["FP8_DEFAULT_CFG", "FP8_PER_CHANNEL_PER_TOKEN_CFG", "FP8_2D_BLOCKWISE_WEIGHT_ONLY_CFG", "INT8_DEFAULT_CFG",
           "INT8_WEIGHT_ONLY_CFG", "INT4_BLOCKWISE_WEIGHT_ONLY_CFG", "NVFP4_DEFAULT_CFG", "W4A16_NVFP4_CFG",
           "W4A8_NVFP4_FP8_CFG", "NVFP4_MLP_WEIGHT_ONLY_CFG", "MXFP8_DEFAULT_CFG", "MXFP4_DEFAULT_CFG",
           "W4A8_MXFP4_FP8_CFG", "MXFP4_MLP_WEIGHT_ONLY_CFG"]


def digest(tensor):
    return xxhash.xxh3_64_hexdigest(tensor.contiguous().numpy().tobytes())


def one_code_a_byte(weight, preset):
    """The codes of an exported weight: FP4 lie in pairs along a row, INT4 in pairs of rows."""
    if weight.dtype != torch.uint8:
        return weight.view(torch.uint8)
    low, high = weight & 15, weight >> 4
    if "INT4" not in preset:
        return torch.stack([low, high], -1).flatten(-2)
    codes = torch.stack([low, high], 1).flatten(0, 1)
    return codes | (codes >= 8).to(torch.uint8) * 240


def one_scale_a_row(scale, rows):
    """Scales as float32: powers of two from their exponents, those of blocks once for each row of theirs."""
    if scale.dtype == torch.uint8:
        return torch.exp2(scale.double() - 127).float()
    if scale.dim() == 4:
        scale = scale.squeeze(3).squeeze(1).repeat_interleave(128, 0)[:rows]
    return scale.float()


def amax(quantizer):
    value = getattr(quantizer, "amax", None)
    return None if value is None else float(value)


def linear(preset, tensors, name, ranges):
    weight = tensors[f"{name}.weight"]
    if weight.dtype == torch.bfloat16:
        return None
    codes = one_code_a_byte(weight, preset)
    entry = {"codes": digest(codes), "scale": digest(one_scale_a_row(tensors[f"{name}.weight_scale"], len(codes)))}
    if f"{name}.weight_scale_2" in tensors:
        entry["scale_2"] = float(tensors[f"{name}.weight_scale_2"])
    if f"{name}.input_scale" in tensors:
        entry |= {"input_amax": ranges[name], "input_scale": float(tensors[f"{name}.input_scale"])}
    return entry


def run(preset, kv_cache):
    model = AutoModelForCausalLM.from_pretrained(ROOT / "examples/tiny", dtype="auto").eval()
    ids = torch.randint(0, 1024, (4, 512), generator=torch.Generator().manual_seed(0))
    config = copy.deepcopy(getattr(mtq, preset))
    if kv_cache:
        config = mtq.utils.update_quant_cfg_with_kv_cache_quant(config, mtq.FP8_KV_CFG["quant_cfg"])
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        mtq.quantize(model, config, lambda m: m(ids, use_cache=False))
        ranges = {name.removesuffix(".input_quantizer"): amax(m) for name, m in model.named_modules()
                  if name.endswith("input_quantizer")}
        cache = {f"{layer}.{side}": amax(getattr(model.model.layers[layer].self_attn, f"{side}_bmm_quantizer", None))
                 for layer in LAYERS for side in "kv"}
        export_hf_checkpoint(model, export_dir=folder)
        tensors = load_file(f"{folder}/model.safetensors")
    found = {}
    for layer in LAYERS:
        for name, _ in model.model.layers[layer].named_modules():
            full = f"model.layers.{layer}.{name}"
            alone = "2D_BLOCKWISE" in preset and "self_attn" in name
            if name.endswith("_proj") and not alone and f"{full}.weight" in tensors:
                entry = linear(preset, tensors, full, ranges)
                found |= {full: entry} if entry else {}
        for side in "kv" * kv_cache:
            scale = tensors[f"model.layers.{layer}.self_attn.{side}_proj.{side}_scale"]
            found[f"model.layers.{layer}.{side}"] = {"cache_amax": cache[f"{layer}.{side}"], "cache_scale": float(scale)}
    return found


golden = {preset: run(preset, False) for preset in PRESETS} | {"FP8_DEFAULT_CFG-kv-fp8": run("FP8_DEFAULT_CFG", True)}
pathlib.Path(sys.argv[1]).write_text(json.dumps(golden, indent=1) + "\n")
