"""Units seen as a model and its blocks: linears with their weights as they are to be quantized, statistics, codes."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .dtypes import F32, STORAGE, Array, held_scale
from .protocol import StageError
from .scheme import Format, format_of
from .unit import Tensor, Unit

STATISTICS = {  # by the word that asks for them: the tensors of a site that they are
    "hessian": ("hessian",), "absmax": ("absmax",), "absmean": ("absmean",), "min": ("min",), "max": ("max",),
    "samples": ("samples",), "histogram": ("histogram",), "token_absmax": ("token_absmax",), "window_min": ("window_min",),
    "window_max": ("window_max",), "block_histogram": ("block_histogram",),
    "asymmetry": ("asymmetry", "held_asymmetry", "held_hessian"), "kv_absmax": ("key_absmax", "value_absmax")}


@dataclass(frozen=True)
class Fold:
    """What absorbs the factors of a site: the gain of `norm`, or rows of `linear`, both modules."""

    norm: str | None = None
    linear: str | None = None
    first: int = 0
    head: int = 0
    repeat: int = 1


@dataclass(frozen=True)
class Site:
    """The shared input of one or more linears."""

    name: str  # "attn_in"
    columns: int
    fold: Fold | None


@dataclass(frozen=True)
class Linear:
    """A matrix to quantize: y = x Wᵀ + b, W of [out, columns]."""

    module: str  # within the layer: "self_attn.q_proj"
    name: str  # "model.layers.3.self_attn.q_proj"
    site: Site
    out: int
    columns: int
    bias: bool


class Model:
    """The model unit."""

    def __init__(self, unit: Unit):
        self.attrs = unit.attrs
        self.scheme: dict[str, Any] = unit.attrs["scheme"]
        self.path: str = unit.attrs["path"]
        self.config: dict[str, Any] = unit.attrs["config"]
        self.blocks: int = unit.attrs["blocks"]
        self.network: dict[str, Any] = unit.attrs["network"]
        self.dtype: str = self.network["dtype"]
        self.layers: list[dict[str, Any]] = self.network["layers"]

    def block(self, unit: Unit) -> "Block":
        return Block(self, unit)

    def type_of(self, layer: int) -> dict[str, Any]:
        kind: dict[str, Any] = self.network["types"][self.layers[layer]["type"]]
        return kind


class Block:
    """A block unit: the embedding (layer -1), a decoder layer (from 0) or the head."""

    def __init__(self, model: Model, unit: Unit):
        self.model, self.unit, self.layer = model, unit, unit.block - 2
        self.is_layer = 0 <= self.layer < len(model.layers)
        self.step = int(unit.attrs.get("step", 0))
        self.name: str = model.layers[self.layer]["name"] if self.is_layer else ""
        self.sites: dict[str, Site] = {}
        self.linears: list[Linear] = []
        if self.is_layer:
            kind = model.type_of(self.layer)
            for site in kind["sites"]:
                fold = Fold(**site["fold"]) if site["fold"] else None
                self.sites[site["name"]] = Site(site["name"], site["in"], fold)
            self.linears = [Linear(d["module"], f"{self.name}.{d['module']}", self.sites[d["site"]], d["out"], d["in"],
                                   d["bias"]) for d in kind["linears"]]

    def _find(self, name: str, shape: tuple[int, ...]) -> Tensor:
        tensor = self.unit.tensors.get(name)
        if tensor is None:
            raise StageError(f"block unit {self.unit.seq} has no tensor {name}", 3)
        if tensor.shape != shape:
            raise StageError(f"{name}: found shape {list(tensor.shape)}, expected {list(shape)}", 3)
        return tensor

    # ---- weights ----

    def original_weight(self, linear: Linear) -> F32:
        """W [out, columns] as in the checkpoint, without folds."""
        return self._find(f"{linear.name}.weight", (linear.out, linear.columns)).float32

    def fold(self, site: Site) -> F32 | None:
        """What smooth and search multiplied a site's weights with, [columns]; None for nothing."""
        name = f"{self.name}.{site.name}.fold"
        return self._find(name, (site.columns,)).float32 if name in self.unit.tensors else None

    def row_divisors(self, linear: Linear) -> F32 | None:
        """What the rows of a linear are divided by, because the input of another one folds into them; None: nothing."""
        divisors = None
        for site in self.sites.values():
            fold = self.fold(site) if site.fold and site.fold.linear == linear.module else None
            if fold is not None and site.fold is not None:
                divisors = np.ones(linear.out, np.float32) if divisors is None else divisors
                row, head, repeat = np.arange(site.columns // site.fold.repeat), site.fold.head, site.fold.repeat
                divisors[site.fold.first + row] = fold[row // head * repeat * head + row % head]
        return divisors

    def weight(self, linear: Linear) -> F32:
        """W [out, columns] with all folds: what is to be quantized."""
        w = self.original_weight(linear)
        columns, rows = self.fold(linear.site), self.row_divisors(linear)
        if columns is None and rows is None:
            return w
        w = w * (columns if columns is not None else np.float32(1))
        return w / rows[:, None] if rows is not None else w

    # ---- statistics, with the folds ----

    def statistic(self, site: Site, name: str) -> F32:
        """absmax, absmean, min or max of a site, [columns]; samples [n, columns]."""
        tensor = self.unit.tensors.get(f"{self.name}.{site.name}.{name}")
        if tensor is None:
            raise StageError(f"block unit {self.unit.seq} has no {name} of {site.name}: declare it in needs", 3)
        fold = self.fold(site)
        return tensor.float32 if fold is None else tensor.float32 / fold

    def hessian(self, site: Site) -> F32:
        """H = Σ xᵀx, [columns, columns]."""
        n, fold = site.columns, self.fold(site)
        tensor = self.unit.tensors.get(f"{self.name}.{site.name}.hessian")
        if tensor is None:
            raise StageError(f"block unit {self.unit.seq} has no hessian of {site.name}: declare it in needs", 3)
        h = tensor.float32
        if h.ndim == 1:  # rows of the upper triangle
            full = np.zeros((n, n), np.float32)
            full[np.triu_indices(n)] = h
            h = full + np.triu(full, 1).T
        return h if fold is None else h / (fold[:, None] * fold[None, :])

    def set_statistic(self, site: Site, name: str, values: Array) -> None:
        """Puts a site's statistic into the unit: of the network without folds, float32."""
        self.unit.put(f"{self.name}.{site.name}.{name}", np.asarray(values, np.float32))

    # ---- what to quantize to, and the outcome ----

    def format(self, linear: Linear) -> Format | None:
        """What the scheme gives a linear; None where it stays as it is."""
        return format_of(self.model.scheme, linear.name, self.model.dtype)

    def set_codes(self, linear: Linear, codes: Array, scale: Array, zero_point: Array | None = None,
                  global_scale: float | None = None) -> None:
        """Quantizes a linear: codes [out, columns], one a byte, scales and zero points of format.scales(...)."""
        wanted = self.format(linear)
        if wanted is None:
            raise StageError(f"{linear.name}: has codes, though the scheme does not quantize it", 3)
        shape = wanted.scales(linear.out, linear.columns)
        self._check_codes(linear, wanted, np.asarray(codes))
        scale = np.ascontiguousarray(scale, np.float32).reshape(shape)
        if not np.all(np.isfinite(scale) & (scale > 0)):
            raise StageError(f"{linear.name}: a scale that is not a finite number above 0", 3)
        if (wanted.bits or wanted.name.startswith("fp8")) and not np.array_equal(held_scale(scale, wanted.scale_dtype), scale):
            raise StageError(f"{linear.name}: scales that {wanted.scale_dtype} does not hold; round them (held_scale)", 3)
        if (zero_point is None) != wanted.symmetric:
            raise StageError(f"{linear.name}: zero points go with `symmetric: false`, and with nothing else", 3)
        self.unit.put(f"{linear.name}.weight_codes", np.asarray(codes).astype(STORAGE[wanted.codes_dtype]), wanted.codes_dtype)
        self.unit.put(f"{linear.name}.weight_scale", scale)
        self.unit.tensors.pop(f"{linear.name}.weight_packed", None)
        self.unit.tensors.pop(f"{linear.name}.weight_zero_point", None)
        if zero_point is not None:
            self.unit.put(f"{linear.name}.weight_zero_point", np.asarray(zero_point).astype(np.int8).reshape(shape))
        if global_scale is not None:
            self.unit.put(f"{linear.name}.weight_global_scale", np.array([global_scale], np.float32))

    @staticmethod
    def _check_codes(linear: Linear, wanted: Format, codes: Array) -> None:
        if codes.shape != (linear.out, linear.columns):
            raise StageError(f"{linear.name}: found codes of {list(codes.shape)}, expected {[linear.out, linear.columns]}", 3)
        low, high = wanted.range if wanted.bits else (-128, 255)
        if codes.size and (codes.min() < low or codes.max() > high):
            raise StageError(f"{linear.name}: found codes from {codes.min()} to {codes.max()}, {wanted.name} has {low} to {high}", 3)


def drop_statistics(model: Model, unit: Unit, words: list[str]) -> None:
    """Takes the statistics out of a unit that no stage downstream reads."""
    block = model.block(unit)
    for site in [*block.sites, "kv"] if block.is_layer else []:
        for word in words:
            for what in STATISTICS.get(word, (word,)):
                unit.tensors.pop(f"{block.name}.{site}.{what}", None)
