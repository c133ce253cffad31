"""Makes formats/, the golden files of the format tests, with independent programs: compressed-tensors 0.20 and gguf.

    python tests/unit/golden/formats.py

compressed_tensors.safetensors: for each case CASE, the inputs CASE/codes, CASE/scale, CASE/zero, CASE/global, what the
library's compressor writes for them (CASE.weight_packed ...) and what it decompresses them to (CASE/weight). Scales are
those of each row and group, in float32, as the library divides by them.
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


# name: (bits, group, strategy, dtype of the scales, layout, values of the codes without sign)
E2M1 = [0, .5, 1, 1.5, 2, 3, 4, 6]
E2M3 = [m / 8 for m in range(8)] + [(1 + m / 8) * 2**e for e in range(3) for m in range(8)]
FLOATS = {
    "nvfp4": (4, 16, "tensor_group", torch.float8_e4m3fn, "nvfp4-pack-quantized", E2M1),
    "mxfp4": (4, 32, "group", torch.uint8, "mxfp4-pack-quantized", E2M1),
    "mxfp6": (6, 32, "group", torch.uint8, "mxfp6-pack-quantized", E2M3),
    "mxfp8": (8, 32, "group", torch.uint8, "mxfp8-quantized", None),
}


def random_codes(bits, values, rows, cols, random):
    """Random codes, every one among the first but that of -0, which the library packs as 0, and what they stand for."""
    if values is None:
        codes = torch.from_numpy(random.normal(0, 60, (rows, cols))).to(torch.float8_e4m3fn)
        return codes, codes.to(torch.float32)
    codes = random.integers(0, 1 << bits, (rows, cols), dtype=np.uint8)
    codes.reshape(-1)[:1 << bits] = np.arange(1 << bits)
    codes[codes == 1 << bits - 1] = 0
    magnitudes = np.array(values, np.float32)
    table = np.concatenate([magnitudes, -magnitudes])
    return torch.from_numpy(codes), torch.from_numpy(table[codes])


def finish(name, scheme, state, codes, scale, layout, kv_cache=None):
    """Compresses and decompresses; returns what goes to the files."""
    compressor = BaseCompressor.get_value_from_registry(layout)
    stored = compressor.compress(dict(state), scheme)
    restored = compressor.decompress(dict(stored), scheme)["weight"]
    out = {f"{name}.{key}": value.contiguous() for key, value in stored.items()}
    out |= {f"{name}/codes": codes, f"{name}/scale": scale.contiguous(), f"{name}/weight": restored.contiguous()}
    scheme.format = layout
    config = QuantizationConfig(config_groups={"group_0": scheme}, format=layout, quantization_status="compressed",
                                ignore=["lm_head"], kv_cache_scheme=kv_cache)
    return out, json.loads(config.model_dump_json())


def float_case(name, kind, rows, cols, activations, random):
    """One linear in small floats: its scales are powers of two, or E4M3 below a global scale."""
    bits, group, strategy, dtype, layout, values = FLOATS[kind]
    args = dict(num_bits=bits, type="float", strategy=strategy, group_size=group, scale_dtype=dtype)
    dynamic = dict(dynamic="local", observer="static_minmax") if kind == "nvfp4" else dict(dynamic=True)
    inputs = QuantizationArgs(**(args | dynamic)) if activations else None
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**args), input_activations=inputs)
    codes, exact = random_codes(bits, values, rows, cols, random)
    shape = (rows, cols // group)
    state = {}
    if kind == "nvfp4":
        scale = torch.from_numpy(random.integers(1, 0x7f, shape, dtype=np.uint8)).view(dtype).to(torch.float32)
        state["weight_global_scale"] = torch.from_numpy(random.uniform(900, 3000, 1).astype(np.float32))
        effective = scale / state["weight_global_scale"]
    else:
        scale = effective = torch.from_numpy(np.exp2(random.integers(-20, 9, shape)).astype(np.float32))
    state |= {"weight": exact * effective.repeat_interleave(group, dim=1), "weight_scale": scale}
    out, config = finish(name, scheme, state, codes, effective, layout)
    if kind == "nvfp4":
        out[f"{name}/global"] = state["weight_global_scale"]
    return out, config


def block_case(name, rows, cols, kind, bits, block, activations, dtype, random, kv_cache=None):
    """One linear in blocks, those at the edges short."""
    weights = QuantizationArgs(num_bits=bits, type=kind, strategy="block", block_structure=list(block))
    inputs = QuantizationArgs(**activations) if activations else None
    scheme = QuantizationScheme(targets=["Linear"], weights=weights, input_activations=inputs)
    if kind == "float":
        codes = torch.from_numpy(random.normal(0, 60, (rows, cols))).to(torch.float8_e4m3fn)
        layout = "float-quantized" if inputs else "naive-quantized"
    else:
        codes = torch.from_numpy(random.integers(-(1 << bits - 1), 1 << bits - 1, (rows, cols))).to(torch.int8)
        layout = "int-quantized" if inputs else "pack-quantized"
    shape = (-(-rows // block[0]), -(-cols // block[1]))
    scale = torch.from_numpy(random.uniform(0.01, 2.0, shape)).to(dtype)
    each_row = scale.to(torch.float32).repeat_interleave(block[0], dim=0)[:rows]
    exact = codes.to(torch.float32) * each_row.repeat_interleave(block[1], dim=1)[:, :cols]
    return finish(name, scheme, {"weight": exact, "weight_scale": scale}, codes, each_row, layout, kv_cache)


def new_cases(random):
    token = dict(num_bits=8, type="float", strategy="token", dynamic=True)
    group = dict(num_bits=8, type="float", strategy="group", group_size=128, dynamic=True)
    fixed = dict(num_bits=8, type="float", strategy="tensor", dynamic=False, observer="static_minmax")
    for kind, rows, cols in (("nvfp4", 5, 48), ("mxfp4", 3, 96), ("mxfp6", 6, 64), ("mxfp8", 7, 64)):
        for activations in (False, True):
            name = kind + ("_both" if activations else "_weights")
            yield name, *float_case(name, kind, rows, cols, activations, random)
    cache = QuantizationArgs(num_bits=8, type="float", strategy="tensor", dynamic=False, symmetric=True)
    yield "fp8_block", *block_case("fp8_block", 21, 256, "float", 8, (8, 128), group, torch.bfloat16, random)
    yield "fp8_block_edge", *block_case("fp8_block_edge", 9, 21, "float", 8, (4, 8), None, torch.float16, random)
    yield "fp8_block_kv", *block_case("fp8_block_kv", 8, 16, "float", 8, (4, 8), token, torch.float32, random, cache)
    yield "fp8_block_static", *block_case("fp8_block_static", 8, 16, "float", 8, (4, 8), fixed, torch.bfloat16, random)
    yield "int4_block", *block_case("int4_block", 12, 20, "int", 4, (8, 8), None, torch.bfloat16, random)


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
    for name, stored, config in new_cases(random):
        tensors.update(stored)
        configs[name] = config
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
