"""usage: formats.py [BUILD]   reads what libstage/formats writes with safetensors, compressed-tensors and gguf

BUILD (default: build) holds tests/dump_formats. Prints one PASS or FAIL line a check: the writer's shards and index with
the safetensors package; packed linears with compressed-tensors, whose unpacking must return the codes and whose config
classes must accept the configs; dequantized GGUF blocks with the gguf package, those of the real model too if it is there.
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
from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
from compressed_tensors.quantization import QuantizationConfig
from safetensors import safe_open

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/unit/golden/formats"
MODEL = ROOT / "examples/smollm2/model/SmolLM2-135M-Instruct.gguf"

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
    if "weight_packed" in parts:
        unpacked = unpack_from_int32(parts["weight_packed"], scheme.weights.num_bits, codes.shape)
    else:
        unpacked = parts["weight"]
    compressor = BaseCompressor.get_value_from_registry(scheme.format)
    weight = compressor.decompress(dict(parts), scheme)["weight"]
    return equal and same(unpacked, codes) and same(weight, golden[f"{name}/weight"])


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
    subprocess.run([build / "tests/dump_formats", GOLDEN, folder, *models], check=True)
    ours, golden = read_shards(folder), load(GOLDEN / "compressed_tensors.safetensors")
    configs = json.loads((folder / "configs.json").read_text())
    wrong = [name for name, config in configs.items() if not check_case(name, config, ours, golden)]
    check(not wrong and len(configs) > 30, "compressed-tensors", f"{len(configs)} linears are what it writes; wrong: {wrong or 0}")
    for number, model in enumerate(models, 1):
        check_gguf(model, load(folder / f"gguf-{number}" / "model.safetensors"))
sys.exit(failures > 0)
