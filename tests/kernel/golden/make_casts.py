#!/usr/bin/env python3
"""Writes casts.h: FNV-1a hashes of what torch's casts give, for casts_test.c. Needs torch and numpy.

Encoding: float32 numbers with the bits (i << 16) | low(i), low(i) = (i * 40503) mod 2^16, for i from 0 to 65535, and
again with low bits 0x8000 (ties of bfloat16). FP8 inputs are clamped first, as engines and compressed-tensors do.
Decoding: every code. NaN counts as one fixed code or one fixed number, since payloads are nobody's contract.
"""
import pathlib
import numpy as np
import torch


def fnv(data):
    h = 0xcbf29ce484222325
    for byte in data:
        h = ((h ^ byte) * 0x100000001b3) & 0xffffffffffffffff
    return h


def inputs():
    i = np.arange(65536, dtype=np.uint32)
    low = np.concatenate([(i * 40503) & 0xffff, np.full(65536, 0x8000, np.uint32)])
    return torch.from_numpy(((np.concatenate([i, i]) << 16) | low).view(np.float32).copy())


TYPES = [  # quantpipe's name, torch's, integer of the codes, code of NaN, limit to clamp at
    ("QP_F16", torch.float16, np.uint16, 0x7e00, None),
    ("QP_BF16", torch.bfloat16, np.uint16, 0x7fc0, None),
    ("QP_F8_E4M3", torch.float8_e4m3fn, np.uint8, 0x7f, 448.0),
    ("QP_F8_E5M2", torch.float8_e5m2, np.uint8, 0x7f, 57344.0),
]


def main():
    lines = ["/* Made by make_casts.py with torch " + torch.__version__.split("+")[0] + ". */",
             "static const struct {", "    enum qp_dtype dtype;", "    unsigned nan;", "    uint64_t encoded, decoded;",
             "} casts[] = {"]
    for name, dtype, integer, nan, limit in TYPES:
        x = inputs()
        y = (x if limit is None else x.clamp(-limit, limit)).to(dtype)
        as_int = torch.uint8 if integer is np.uint8 else torch.int16
        codes = y.view(as_int).numpy().view(integer).copy()
        codes[torch.isnan(x).numpy()] = nan
        every = np.arange(256 if integer is np.uint8 else 65536).astype(integer)
        back = torch.from_numpy(every.view(np.uint8 if integer is np.uint8 else np.int16)).view(dtype).float().numpy()
        bits = back.view(np.uint32).copy()
        bits[np.isnan(back)] = 0x7fc00000
        encoded, decoded = fnv(codes.tobytes()), fnv(bits.tobytes())
        lines.append(f"    {{{name}, 0x{nan:x}, 0x{encoded:016x}, 0x{decoded:016x}}},")
    lines.append("};")
    pathlib.Path(__file__).with_name("casts.h").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
