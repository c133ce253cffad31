"""usage: formats.py [BUILD]   reads what libstage/formats writes with safetensors, compressed-tensors and gguf

BUILD (default: build) holds tests/dump_formats. Prints one PASS or FAIL line a check: the writer's shards and index with
the safetensors package; packed linears with compressed-tensors, whose unpacking must return the codes and whose config
classes must accept the configs; every preset's config, and what its weights become, with compressed-tensors' own scales
and compressors; dequantized GGUF blocks with the gguf package, those of the real model too if it is there.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

import gguf
import numpy as np
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.compressors.mxfp6.helpers import unpack_fp6_from_uint8
from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
from compressed_tensors.quantization import QuantizationConfig
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam, maybe_pad_tensor_for_block_quant
from safetensors import safe_open
from safetensors.torch import save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/unit/golden/formats"
MODEL = ROOT / "examples/smollm2/model/SmolLM2-135M-Instruct.gguf"

# values of the codes of floats without sign
E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
E2M3 = [m / 8 for m in range(8)] + [(1 + m / 8) * 2.0**e for e in range(3) for m in range(8)]
FLOATS = {"nvfp4-pack-quantized": (unpack_fp4_from_uint8, E2M1), "mxfp4-pack-quantized": (unpack_fp4_from_uint8, E2M1),
          "mxfp6-pack-quantized": (unpack_fp6_from_uint8, E2M3)}

failures = 0


def check(good, name, text):
    global failures
    failures += not good
    print(f"{'PASS' if good else 'FAIL'} formats: {name}: {text}", flush=True)


def load(path):
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def read_shards(folder):
    """All tensors of a sharded folder, each from the file that the index names."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = {name: load(folder / name) for name in sorted(set(index["weight_map"].values()))}
    tensors = {name: files[file].pop(name) for name, file in index["weight_map"].items()}
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    whole = not any(files.values()) and size == index["metadata"]["total_size"]
    check(whole, "index", f"{len(tensors)} tensors, {size} bytes in {len(files)} shards are what it says")
    with safe_open(folder / next(iter(files)), "pt") as file:
        check(file.metadata() == {"format": "pt"}, "metadata", str(file.metadata()))
    return tensors


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.view(torch.uint8), b.view(torch.uint8))


def check_case(name, config, tensors, golden):
    """One linear: the bytes, the codes that unpacking gives, and the weight that decompressing gives."""
    stored = {key: golden[key] for key in golden if key.startswith(name + ".")}
    equal = all(same(tensors.get(key, torch.empty(0)), value) for key, value in stored.items())
    equal = equal and not any(key.startswith(name + ".") and key not in stored for key in tensors)
    scheme = QuantizationConfig(**config).config_groups["group_0"]
    parts = {key.split(".", 1)[1]: value for key, value in tensors.items() if key.startswith(name + ".")}
    codes = golden[f"{name}/codes"]
    if scheme.format in FLOATS:
        unpack, values = FLOATS[scheme.format]
        unpacked = unpack(parts["weight_packed"], *codes.shape, dtype=torch.float32)
        codes = torch.tensor(values + [-v for v in values])[codes.int()]
    elif "weight_packed" in parts:
        unpacked = unpack_from_int32(parts["weight_packed"], scheme.weights.num_bits, codes.shape)
    else:
        unpacked = parts["weight"]
    compressor = BaseCompressor.get_value_from_registry(scheme.format)
    weight = compressor.decompress(dict(parts), scheme)["weight"]
    return equal and same(unpacked, codes) and same(weight, golden[f"{name}/weight"])


def ranges(weight, args):
    """The least and the largest number of each group, as llm-compressor's observers see them."""
    if args.strategy == "tensor":
        parts = weight.reshape(1, -1)
        return parts.amin(-1), parts.amax(-1)
    if args.strategy == "block":
        height, width = args.block_structure
        padded = maybe_pad_tensor_for_block_quant(weight, (height, width))
        parts = padded.reshape(padded.shape[0] // height, height, padded.shape[1] // width, width)
        return parts.amin((1, 3)), parts.amax((1, 3))
    parts = weight.unflatten(-1, (-1, args.group_size or weight.shape[1]))
    return parts.amin(-1), parts.amax(-1)


def check_preset(name, config, tensors, weight):
    """The bytes of a preset's linear against what the library makes of the same weights."""
    scheme = QuantizationConfig(**config).config_groups["group_0"]
    state = {"weight": weight.clone()}
    if scheme.weights.strategy == "tensor_group":
        state["weight_global_scale"] = generate_gparam(weight.min(), weight.max())
    state["weight_scale"], zero = calculate_qparams(*ranges(weight, scheme.weights), scheme.weights,
                                                    global_scale=state.get("weight_global_scale"))
    state["weight_zero_point"] = zero
    stored = BaseCompressor.get_value_from_registry(scheme.format).compress(state, scheme)
    ours = {key.split(".", 1)[1]: value for key, value in tensors.items() if key.startswith(name + ".")}
    return ours.keys() == stored.keys() and all(same(ours[key], stored[key]) for key in stored)


def check_presets(folder, weight):
    configs = json.loads((folder / "presets.json").read_text())
    tensors = load(folder / "quantized/model.safetensors")
    for name, config in configs.items():
        parsed = QuantizationConfig(**config)
        named = list(parsed.config_groups.values()) + [parsed.kv_cache_scheme] * name.count("-kv-")
        if any(scheme is None for scheme in named):
            check(False, "presets", f"{name}: something is missing in its config")
    check(len(configs) > 110, "presets", f"{len(configs)} configs are compressed-tensors' own")
    quantized = sorted({key.rsplit(".", 1)[0] for key in tensors})
    wrong = [name for name in quantized if not check_preset(name, configs[name], tensors, weight)]
    check(not wrong and len(quantized) > 30, "presets", f"{len(quantized)} presets make of a matrix what it makes; wrong: {wrong or 0}")


def check_gguf(path, dumped):
    wrong = []
    for tensor in gguf.GGUFReader(path).tensors:
        rows = tensor.data.reshape(-1, tensor.data.shape[-1])[:16]
        expected = gguf.quants.dequantize(rows, tensor.tensor_type).astype(np.float32)
        found = dumped.pop(tensor.name).numpy()
        if found.shape != expected.shape or found.tobytes() != expected.tobytes():
            wrong.append(tensor.name)
    check(not wrong and not dumped, path.name, f"dequantized bit for bit; wrong: {(wrong + list(dumped))[:3] or 0}")


build = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build")
models = [GOLDEN / "blocks.gguf"] + [MODEL] * MODEL.exists()
with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(temporary)
    weight = torch.randn(192, 384, generator=torch.Generator().manual_seed(3)) * torch.logspace(-3, 0, 192)[:, None]
    save_file({"weight": weight}, folder / "weight.safetensors")
    subprocess.run([build / "tests/dump_formats", GOLDEN, folder, *models], check=True)
    ours, golden = read_shards(folder), load(GOLDEN / "compressed_tensors.safetensors")
    configs = json.loads((folder / "configs.json").read_text())
    wrong = [name for name, config in configs.items() if not check_case(name, config, ours, golden)]
    check(not wrong and len(configs) > 30, "compressed-tensors", f"{len(configs)} linears are what it writes; wrong: {wrong or 0}")
    check_presets(folder, weight)
    for number, model in enumerate(models, 1):
        check_gguf(model, load(folder / f"gguf-{number}" / "model.safetensors"))
sys.exit(failures > 0)
