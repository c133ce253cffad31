"""Makes formats/, the golden files of the format tests, with independent programs: compressed-tensors 0.20 and gguf.

    python tests/unit/golden/formats.py

compressed_tensors.safetensors: for each case CASE, the inputs CASE/codes, CASE/scale, CASE/zero, what the library's
compressor writes for them (CASE.weight_packed ...) and what it decompresses them to (CASE/weight).
configs.json: for each case the quantization_config of the library.
blocks.gguf: one tensor a block type, of random blocks, and metadata of every type; blocks.safetensors: the same tensors
dequantized by gguf-py.
"""

import json
from pathlib import Path

import gguf
import numpy as np
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme
from gguf.quants import dequantize
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

HERE = Path(__file__).parent / "formats"


def case(name, rows, cols, bits, kind, strategy, group, symmetric, activations, layout, dtype, random):
    """One linear: random codes and scales, compressed and decompressed by the library."""
    args = dict(num_bits=bits, type=kind, strategy=strategy, group_size=group, symmetric=symmetric)
    inputs = None
    if activations:
        inputs = QuantizationArgs(num_bits=8, type=kind, strategy="token", dynamic=True)
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**args), input_activations=inputs)
    shape = (1,) if strategy == "tensor" else (rows, cols // group if group else 1)
    scale = torch.from_numpy(random.uniform(0.01, 2.0, shape)).to(dtype)
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    zero = None if symmetric else torch.from_numpy(random.integers(low, high + 1, shape)).to(torch.int8)
    if kind == "int":
        codes = torch.from_numpy(random.integers(low, high + 1, (rows, cols))).to(torch.int8)
        values = codes.to(torch.float32)
    else:
        codes = torch.from_numpy(random.normal(0, 60, (rows, cols))).to(torch.float8_e4m3fn)
        values = codes.to(torch.float32)
    spread = (lambda x: x) if strategy == "tensor" else (lambda x: x.repeat_interleave(group or cols, dim=1))
    exact = (values - (0 if zero is None else spread(zero).float())) * spread(scale).float()
    state = {"weight": exact, "weight_scale": scale}
    if zero is not None:
        state["weight_zero_point"] = zero
    compressor = BaseCompressor.get_value_from_registry(layout)
    stored = compressor.compress(dict(state), scheme)
    restored = compressor.decompress(dict(stored), scheme)["weight"]
    out = {f"{name}.{key}": value.contiguous() for key, value in stored.items()}
    out[f"{name}/codes"] = codes
    out[f"{name}/scale"] = scale.to(torch.float32)
    out[f"{name}/weight"] = restored.contiguous()
    if zero is not None:
        out[f"{name}/zero"] = zero
    scheme.format = layout
    config = QuantizationConfig(config_groups={"group_0": scheme}, format=layout, quantization_status="compressed",
                                ignore=["lm_head"])
    return out, json.loads(config.model_dump_json())


def make_compressed():
    random = np.random.default_rng(7)
    tensors, configs = {}, {}
    cases = []
    for bits in range(2, 9):
        for symmetric in (True, False):
            word = "sym" if symmetric else "asym"
            cases.append((f"pack{bits}_group_{word}", 11, 64, bits, "int", "group", 32, symmetric, False, "pack-quantized",
                          torch.bfloat16))
            cases.append((f"pack{bits}_channel_{word}", 37, 21, bits, "int", "channel", None, symmetric, False,
                          "pack-quantized", torch.float16 if bits % 2 else torch.float32))
    cases += [
        ("pack4_tensor_sym", 5, 24, 4, "int", "tensor", None, True, False, "pack-quantized", torch.bfloat16),
        ("pack4_tensor_asym", 5, 24, 4, "int", "tensor", None, False, False, "pack-quantized", torch.bfloat16),
        ("int8_channel_sym", 9, 40, 8, "int", "channel", None, True, True, "int-quantized", torch.bfloat16),
        ("int8_channel_asym", 9, 40, 8, "int", "channel", None, False, True, "int-quantized", torch.bfloat16),
        ("int4_group_sym", 6, 64, 4, "int", "group", 16, True, True, "int-quantized", torch.float16),
        ("int8_tensor_sym", 4, 12, 8, "int", "tensor", None, True, True, "int-quantized", torch.float32),
        ("fp8_channel", 9, 40, 8, "float", "channel", None, True, True, "float-quantized", torch.bfloat16),
        ("fp8_group", 6, 64, 8, "float", "group", 32, True, False, "naive-quantized", torch.bfloat16),
        ("fp8_tensor", 4, 12, 8, "float", "tensor", None, True, True, "float-quantized", torch.float32),
    ]
    for c in cases:
        stored, config = case(*c, random)
        tensors.update(stored)
        configs[c[0]] = config
    save_torch({name: t.clone() for name, t in tensors.items()}, HERE / "compressed_tensors.safetensors")
    (HERE / "configs.json").write_text(json.dumps(configs, indent=1, sort_keys=True) + "\n")


def halves(random, count, low, high):
    return random.uniform(low, high, count).astype(np.float16).view(np.uint8).reshape(count, 2)


def random_blocks(kind, count, random):
    """Blocks of random bits, with finite scales in their places."""
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = random.integers(0, 256, (count, size), dtype=np.uint8)
    places = {"Q4_0": [0], "Q5_0": [0], "Q8_0": [0], "Q4_1": [0, 2], "Q5_1": [0, 2], "Q4_K": [0, 2], "Q6_K": [208]}
    for at in places[kind.name]:
        blocks[:, at:at + 2] = halves(random, count, -2.0, 2.0)
    blocks[0, places[kind.name][0]:][:2] = np.array([3e-6], np.float16).view(np.uint8)  # a subnormal scale
    return blocks


def make_blocks():
    random = np.random.default_rng(11)
    writer = gguf.GGUFWriter(HERE / "blocks.gguf", "llama")
    writer.add_uint8("test.u8", 200)
    writer.add_int8("test.i8", -100)
    writer.add_uint16("test.u16", 60000)
    writer.add_int16("test.i16", -30000)
    writer.add_uint32("test.u32", 4000000000)
    writer.add_int32("test.i32", -2000000000)
    writer.add_uint64("test.u64", 1 << 60)
    writer.add_int64("test.i64", -(1 << 60))
    writer.add_float32("test.f32", 0.1)
    writer.add_float64("test.f64", 0.1)
    writer.add_bool("test.bool", True)
    writer.add_string("test.string", "Grüße")
    writer.add_array("test.ints", [1, -2, 3])
    writer.add_array("test.floats", [0.5, -1.25])
    writer.add_array("test.bools", [True, False])
    writer.add_array("test.strings", ["a", "", "Ġb"])
    expected = {}
    kinds = gguf.GGMLQuantizationType
    for kind in (kinds.Q4_0, kinds.Q4_1, kinds.Q5_0, kinds.Q5_1, kinds.Q8_0, kinds.Q4_K, kinds.Q6_K):
        blocks = random_blocks(kind, 3 * 512 // gguf.GGML_QUANT_SIZES[kind][0], random).reshape(3, -1)
        writer.add_tensor(kind.name, blocks, raw_dtype=kind)
        expected[kind.name] = dequantize(blocks, kind)
    values = random.normal(0, 1, (3, 7)).astype(np.float32)
    writer.add_tensor("F32", values)
    expected["F32"] = values
    writer.add_tensor("F16", values.astype(np.float16))
    expected["F16"] = values.astype(np.float16).astype(np.float32)
    bf16 = gguf.quants.quantize(values, kinds.BF16)
    writer.add_tensor("BF16", bf16, raw_dtype=kinds.BF16)
    expected["BF16"] = dequantize(bf16, kinds.BF16)
    vector = random.normal(0, 1, 5).astype(np.float32)
    writer.add_tensor("vector", vector)
    expected["vector"] = vector
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(expected, HERE / "blocks.safetensors")


make_compressed()
make_blocks()
