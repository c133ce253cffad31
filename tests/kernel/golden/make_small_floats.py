#!/usr/bin/env python3
"""Writes small_floats.h: FNV-1a hashes of what compressed-tensors and torch make of numbers, for small_floats_test.c.
Needs torch, numpy and compressed-tensors.

Casts: the float32 numbers of make_casts.py without NaN, as codes, one a byte: E2M1 and E2M3 by compressed-tensors'
casts after clamping; E8M0 by torch's float8_e8m0fnu, for normal numbers up to 2^127 (torch makes NaN of larger ones,
and takes exponent 0 for the number 0).
Weights: w[64, 256], splitmix64 from state 1, the upper 24 bits as a signed number in units of 2^-23, each row times
2^(row % 9 - 20); row 5 is 0. Scales (as float32, widened) and codes of NVFP4 (global scale from the absmax, groups of
16), and of MXFP4 and MXFP6 (groups of 32), as calculate_qparams and quantize give them.
"""
import os
import pathlib

os.environ["TORCHDYNAMO_DISABLE"] = "1"
import numpy as np
import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationStrategy, QuantizationType
from compressed_tensors.quantization.lifecycle.forward import quantize
from compressed_tensors.quantization.quant_args import FP4_E2M1_DATA, FP6_E2M3_DATA
from compressed_tensors.quantization.utils.helpers import calculate_qparams, generate_gparam

from make_casts import fnv, inputs

E2M1 = [0, .5, 1, 1.5, 2, 3, 4, 6]
E2M3 = [i / 8 for i in range(16)] + [2 + i / 4 for i in range(8)] + [4 + i / 2 for i in range(8)]


def codes(values, table):
    """Codes of numbers that are on the grid; a zero keeps its sign."""
    x = values.float().numpy()
    code = np.searchsorted(table, np.abs(x))
    assert np.array_equal(np.array(table, np.float32)[code], np.abs(x))
    return (code + np.signbit(x) * len(table)).astype(np.uint8)


def weights():
    mask = (1 << 64) - 1
    state, out = 1, []
    for _ in range(64 * 256):
        state = (state + 0x9e3779b97f4a7c15) & mask
        z = ((state ^ (state >> 30)) * 0xbf58476d1ce4e5b9) & mask
        z = ((z ^ (z >> 27)) * 0x94d049bb133111eb) & mask
        out.append((((z ^ (z >> 31)) >> 40) - 2**23) * 2.0**-23)
    w = torch.tensor(out, dtype=torch.float64).reshape(64, 256)
    w *= torch.exp2(torch.arange(64) % 9 - 20.0)[:, None]
    w[5] = 0
    return w.float()


def quantized(bits, group, scale_dtype, table, w, two_level):
    args = QuantizationArgs(num_bits=bits, type=QuantizationType.FLOAT, symmetric=True, group_size=group,
                            strategy=QuantizationStrategy.TENSOR_GROUP if two_level else QuantizationStrategy.GROUP,
                            scale_dtype=scale_dtype, zp_dtype=scale_dtype)
    share = generate_gparam(w.min(), w.max()) if two_level else None
    groups = w.reshape(w.shape[0], -1, group)
    scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), args, share)
    scale = scale.float()
    q = quantize(w, scale, zero.float(), args, global_scale=share)
    effective = scale / share if two_level else scale
    effective = effective.numpy().copy()
    effective[(groups.abs().amax(-1) == 0).numpy()] = 0
    return fnv(effective.tobytes()), fnv(codes(q, table).tobytes())


def main():
    lines = ["/* Made by make_small_floats.py with torch " + torch.__version__.split("+")[0] +
             " and compressed-tensors. */", "enum { E2M1, E2M3, E8M0 };", "static const uint64_t cast_hashes[] = {"]
    x = inputs()
    x = x[~torch.isnan(x)]
    e2m1 = codes(FP4_E2M1_DATA.cast_to_fp4(x.clamp(-6, 6)), E2M1)
    lines.append(f"    [E2M1] = 0x{fnv(e2m1.tobytes()):016x},")
    e2m3 = codes(FP6_E2M3_DATA.cast_to_fp6(x.clamp(-7.5, 7.5)), E2M3)
    lines.append(f"    [E2M3] = 0x{fnv(e2m3.tobytes()):016x},")
    normal = x[(x >= 2.0**-126) & (x <= 2.0**127)]
    e8m0 = normal.to(torch.float8_e8m0fnu).view(torch.uint8).numpy()
    lines.append(f"    [E8M0] = 0x{fnv(e8m0.tobytes()):016x},")
    lines += ["};", "static const struct {", "    uint64_t scales, codes;", "} scheme_hashes[] = {"]
    w = weights()
    for bits, group, dtype, table, two in ((4, 16, torch.float8_e4m3fn, E2M1, True), (4, 32, torch.uint8, E2M1, False),
                                           (6, 32, torch.uint8, E2M3, False)):
        scales, q = quantized(bits, group, dtype, table, w, two)
        lines.append(f"    {{0x{scales:016x}, 0x{q:016x}}},")
    lines.append("};")
    pathlib.Path(__file__).with_name("small_floats.h").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
