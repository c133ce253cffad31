"""Numbers of checkpoints as numpy arrays. numpy has no BF16 and no FP8: these are views of their bits, which the functions
here read and write."""
from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
F32 = npt.NDArray[np.float32]

# What numpy has for each dtype of the protocol; bits for those that it has not.
STORAGE: dict[str, np.dtype[Any]] = {name: np.dtype(code) for name, code in {
    "F32": "<f4", "F16": "<f2", "F64": "<f8", "BF16": "<u2", "F8_E4M3": "u1", "F8_E5M2": "u1", "I8": "i1", "I16": "<i2",
    "I32": "<i4", "I64": "<i8", "U8": "u1", "BOOL": "u1"}.items()}
OF_NUMPY = {np.dtype(code): name for code, name in {
    "f4": "F32", "f2": "F16", "f8": "F64", "i1": "I8", "i2": "I16", "i4": "I32", "i8": "I64", "u1": "U8", "?": "BOOL"}.items()}
_SMALL = {"F8_E4M3": (4, 3, 448.0), "F8_E5M2": (5, 2, 57344.0)}  # bits of exponent and mantissa, largest finite number
_EPSILON = {"BF16": 2.0**-7, "F16": 2.0**-10, "F32": 2.0**-23}


def _table(dtype: str) -> F32:
    """The number of each of the 256 codes of an FP8 format."""
    exponent_bits, mantissa_bits, largest = _SMALL[dtype]
    codes = np.arange(256)
    bias, exponent = 2 ** (exponent_bits - 1) - 1, (codes >> mantissa_bits) & (2**exponent_bits - 1)
    mantissa = (codes & (2**mantissa_bits - 1)) / 2.0**mantissa_bits
    value = np.where(exponent > 0, (1 + mantissa) * 2.0 ** (exponent - bias), mantissa * 2.0 ** (1 - bias))
    value = np.where(value > largest, np.nan if dtype == "F8_E4M3" else np.where(mantissa > 0, np.nan, np.inf), value)
    return np.where(codes < 128, value, -value).astype(np.float32)


def to_float32(values: Array, dtype: str) -> F32:
    """The numbers of an array as STORAGE holds that dtype."""
    if dtype == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    if dtype in _SMALL:
        return np.asarray(_table(dtype)[values], np.float32)
    return values.astype(np.float32)


def from_float32(values: F32, dtype: str) -> Array:
    """As STORAGE holds that dtype, rounded to nearest, half to even; FP8 saturates. NaN stays one."""
    if dtype == "BF16":
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        rounded = ((bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
        return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)
    if dtype in _SMALL:
        table = _table(dtype)[:128]
        numbers = table[np.isfinite(table)].astype(np.float64)  # rising with the code
        size = np.minimum(np.abs(values.astype(np.float64)), numbers[-1])
        above = np.clip(np.searchsorted(numbers, size), 1, len(numbers) - 1)
        middle = (numbers[above - 1] + numbers[above]) / 2
        code = np.where((size > middle) | ((size == middle) & (above % 2 == 0)), above, above - 1)
        return np.where(np.isnan(values), 0x7F, code | (np.signbit(values) << 7)).astype(np.uint8)
    return values.astype(STORAGE[dtype])


def held_scale(scale: F32, dtype: str) -> F32:
    """Scales as a checkpoint of that dtype stores them, widened again; never 0."""
    rounded = to_float32(from_float32(scale, dtype), dtype)
    return np.where(rounded == 0, np.float32(_EPSILON[dtype]), rounded).astype(np.float32)
