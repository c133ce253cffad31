"""Checkpoints of every tool in the table, as float32 models that act like what an engine would run.

Layouts of compressed-tensors go through transformers and compressed-tensors. Those of GPTQ (GPTQModel, auto-round)
and of Model Optimizer are decoded here, from their documented meaning; of Model Optimizer's, which quantize
activations, the inputs of each linear are rounded as the checkpoint says.
"""

import json

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, CompressedTensorsConfig

FP4 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
HALVES = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
# Ties go to the value with the even code: just below the middle for those that go up.
BOUNDS = torch.where(torch.arange(7) % 2 == 1, torch.nextafter(HALVES, torch.tensor(0.0)), HALVES)


def load(folder):
    """(model, whether it needs a KV cache to show its quantization)"""
    config = json.loads((folder / "config.json").read_text()).get("quantization_config")
    if not config:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), False
    if config["quant_method"] == "compressed-tensors":
        options = CompressedTensorsConfig(dequantize=True)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=options)
        return model.float().eval(), bool(config.get("kv_cache_scheme"))
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(path)
    if config["quant_method"] == "modelopt":
        return with_rounded_inputs(plain(folder, modelopt_weights(tensors)), tensors), False
    if config["quant_method"] in ("gptq", "auto-round"):
        return plain(folder, gptq_weights(tensors, config)), False
    raise SystemExit(f"{folder}: quant_method {config['quant_method']} is not known here")


def plain(folder, state):
    config = AutoConfig.from_pretrained(folder)
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    missing, extra = model.load_state_dict(state, strict=False)
    assert not extra and set(missing) <= {"lm_head.weight"}, (missing, extra)
    model.tie_weights()
    return model.eval()


def nibbles(words, dim):
    """The eight 4-bit numbers of each int32 along dim, the lowest first."""
    return torch.stack([(words >> (4 * i)) & 15 for i in range(8)], dim + 1).flatten(dim, dim + 1)


def gptq_weights(tensors, config):
    """GPTQ's layout at 4 bits: qweight [in / 8, out], scales [groups, out], qzeros [groups, out / 8], 1 less in version 1."""
    assert config["bits"] == 4, config["bits"]
    offset = 0 if config.get("checkpoint_format") == "gptq_v2" else 1
    state = {}
    for name, tensor in tensors.items():
        prefix, _, kind = name.rpartition(".")
        if kind in ("weight", "bias"):
            state[name] = tensor.float()
        elif kind == "qweight":
            codes, scales = nibbles(tensor, 0).float(), tensors[f"{prefix}.scales"].float()
            zeros = (nibbles(tensors[f"{prefix}.qzeros"], 1) + offset).float()
            group = tensors.get(f"{prefix}.g_idx", torch.arange(len(codes)) // config["group_size"]).long()
            state[f"{prefix}.weight"] = ((codes - zeros[group]) * scales[group]).T.contiguous()
    return state


def modelopt_weights(tensors):
    """FP8: E4M3 and a scale a tensor; INT8: a scale a row; NVFP4: pairs of codes, the first column low, two scales."""
    state = {}
    for name, tensor in tensors.items():
        prefix, _, kind = name.rpartition(".")
        if kind not in ("weight", "bias"):
            continue
        scale = tensors.get(f"{prefix}.weight_scale")
        if scale is None:
            state[name] = tensor.float()
        elif tensor.dtype == torch.uint8:
            codes = torch.stack([tensor & 15, tensor >> 4], -1).flatten(1).long()
            values = FP4[codes & 7] * (1 - 2 * (codes >> 3))
            steps = scale.float() * tensors[f"{prefix}.weight_scale_2"]
            state[name] = values * steps.repeat_interleave(16, 1)
        else:
            state[name] = tensor.float() * (scale.float()[:, None] if scale.dim() else scale)
    return state


def rounded_fp8(x, scale):
    return (x / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale


def rounded_int8(x, scale):
    return (x / scale).round().clamp(-128, 127) * scale


def rounded_nvfp4(x, scale):
    """Blocks of 16 with an E4M3 scale each, on top of the tensor's: OCP FP4 values, ties to even codes."""
    blocks = x.unflatten(-1, (-1, 16))
    step = (blocks.abs().amax(-1, keepdim=True) / 6 / scale).clamp(max=448).to(torch.float8_e4m3fn).float() * scale
    unit = torch.where(step > 0, step, 1)
    return (FP4[torch.bucketize(blocks.abs() / unit, BOUNDS)] * blocks.sign() * step).flatten(-2)


def with_rounded_inputs(model, tensors):
    rounding = {torch.uint8: rounded_nvfp4, torch.int8: rounded_int8, torch.float8_e4m3fn: rounded_fp8}
    for name, module in model.named_modules():
        scale = tensors.get(f"{name}.input_scale")
        if scale is None:
            continue
        smooth = tensors.get(f"{name}.pre_quant_scale")

        def hook(module, inputs, scale=scale, smooth=smooth, rounded=rounding[tensors[f"{name}.weight"].dtype]):
            return (rounded(inputs[0] if smooth is None else inputs[0] * smooth.float(), scale.float()),)

        module.register_forward_pre_hook(hook)
    return model
