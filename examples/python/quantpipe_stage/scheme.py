"""Which format a scheme gives a linear."""
from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from .protocol import StageError

_PLAIN = ("bf16", "fp16", "fp32")


@dataclass(frozen=True)
class Format:
    """How the weights of a linear are to be quantized."""

    name: str  # "int4", "fp8_e4m3", "nvfp4" ...
    bits: int  # of an integer; 0 of others
    symmetric: bool
    group: int | None  # columns that share a scale; None: all of a row, or of the matrix
    tensor: bool  # one scale for the matrix
    rows: int  # rows that share a scale: 1, but of blocks
    scale_dtype: str  # what the scales of integers and FP8 are stored in
    codes_dtype: str  # what weight_codes holds
    activations: dict[str, Any] | None  # the scheme's mapping, when activations are quantized as well

    @property
    def range(self) -> tuple[int, int]:
        """Smallest and largest code of an integer."""
        return -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1

    def scales(self, out: int, columns: int) -> tuple[int, ...]:
        """The shape of weight_scale for a matrix [out, columns]."""
        return (1,) if self.tensor else (out, -(-columns // (self.group or columns)))


def _matches(pattern: str, name: str) -> bool:
    return fnmatchcase(name, pattern.replace("[^", "[!"))


def _sides(scheme: dict[str, Any], name: str) -> tuple[Any, Any]:
    """The mappings `weights` and `activations` that apply to a name."""
    weights, activations = scheme.get("weights"), scheme.get("activations")
    for rule in scheme.get("rules", []):
        if _matches(rule["match"], name):
            if rule.get("weights", {}).get("format") in _PLAIN and "activations" not in rule:
                activations = None
            return rule.get("weights", weights), rule.get("activations", activations)
    return weights, activations


def format_of(scheme: dict[str, Any], name: str, dtype: str) -> Format | None:
    """The format of the linear `name`, None where it stays as it is. `dtype` is the checkpoint's."""
    if "budget" in scheme:
        raise StageError("the scheme is a budget whose formats are not chosen yet: put stage `allocate` before this one", 3)
    weights, activations = _sides(scheme, name)
    if not weights or weights["format"] in _PLAIN or any(_matches(p, name) for p in scheme.get("ignore", [])):
        return None
    word: str = weights["format"]
    integer = re.fullmatch(r"int([2-8])", word)
    block, group = weights.get("block"), weights.get("group")
    if word == "nvfp4":
        group = group or 16
    elif word.startswith("mx"):
        group = 32
    codes = "I8" if integer or word == "mxint8" else {"fp8_e4m3": "F8_E4M3", "fp8_e5m2": "F8_E5M2", "mxfp8": "F8_E4M3"}.get(word, "U8")
    return Format(name=word, bits=int(integer[1]) if integer else 0, symmetric=weights.get("symmetric", True),
                  group=block[1] if block else group, tensor=weights.get("granularity") == "tensor",
                  rows=block[0] if block else 1, scale_dtype="F32" if scheme.get("exact") == "modelopt" else dtype,
                  codes_dtype=codes, activations=activations if activations and activations["format"] not in _PLAIN else None)
