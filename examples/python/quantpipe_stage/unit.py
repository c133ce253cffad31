"""Units and their tensors."""
from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from .dtypes import F32, OF_NUMPY, STORAGE, Array, from_float32, to_float32
from .protocol import TENSOR, check_keys, fail


class Tensor:
    """A tensor of a unit. `array` is a numpy array that is not to be written: bits for BF16 and FP8, whose numbers
    `float32` gives. It may be memory of another process, which is there until the stage is done with the unit: keep a copy
    of what you need longer."""

    def __init__(self, name: str, array: Array, dtype: str, place: tuple[str, str, int] | None = None):
        self.name, self.array, self.dtype, self.place = name, array, dtype, place

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def float32(self) -> F32:
        return to_float32(self.array, self.dtype)


def make_tensor(name: str, array: Array, dtype: str | None = None) -> Tensor:
    """A tensor of an array. Without `dtype` it is what numpy says; with it float32 numbers are rounded to it, and bits of
    BF16 and FP8 are taken as they are."""
    array = np.ascontiguousarray(array) if np.ndim(array) else np.array(array)
    if dtype is None:
        if array.dtype not in OF_NUMPY:
            raise fail(f"{name}: no tensor has numpy's dtype {array.dtype}")
        dtype = OF_NUMPY[array.dtype]
    elif array.dtype != STORAGE[dtype]:
        array = from_float32(array.astype(np.float32), dtype)
    return Tensor(name, array, dtype)


class Unit:
    """What travels on an edge: a kind ("model", "block", "end"), a number, attributes, and tensors by name."""

    def __init__(self, kind: str, seq: int, attrs: dict[str, Any] | None = None):
        self.kind, self.seq, self.attrs = kind, seq, attrs if attrs is not None else {}
        self.tensors: dict[str, Tensor] = {}

    @property
    def block(self) -> int:
        """The number of the model's block that this is, or is a part of, from 1; -1 for a model and an end unit."""
        return int(self.attrs.get("block", self.seq)) if self.kind == "block" else -1

    def put(self, name: str, array: Array, dtype: str | None = None) -> None:
        """Adds a tensor, or puts it in the place of the one of that name."""
        self.tensors[name] = make_tensor(name, array, dtype)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.tensors.values())


class References:
    """Memory that peers on this host refer to: shared memory of the run, and files below its roots."""

    def __init__(self, run: str, roots: list[str]):
        self.prefix = f"/qp-{run}-"
        self.roots = [os.path.realpath(root) for root in roots]
        self.files: dict[str, mmap.mmap] = {}

    def _check(self, where: str, path: str) -> str:
        if where == "shm":
            if not path.startswith(self.prefix) or "/" in path[1:]:
                raise fail(f"{path}: refused, this run's shared memory is called {self.prefix}...")
            return f"/dev/shm{path}"
        real = os.path.realpath(path)
        if not path.startswith("/") or not any(os.path.commonpath([real, root]) == root for root in self.roots):
            raise fail(f"{path}: refused, there is no such file in the run's folders")
        return real

    def open(self, where: str, path: str) -> mmap.mmap:
        """Mapped read only. Files stay mapped; shared memory as long as an array needs it."""
        if path in self.files:
            return self.files[path]
        try:
            with open(self._check(where, path), "rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise fail(f"{path}: cannot be mapped: {error}") from None
        if where == "file":
            self.files[path] = mapped
        return mapped


class Entry:
    """A tensor as the header of a unit describes it, checked."""

    def __init__(self, value: Any):
        check_keys(value, TENSOR, "tensor")
        self.name, self.dtype, self.where = value["name"], value["dtype"], value["where"]
        self.path, self.offset, self.bytes = value["path"], value["offset"], value["bytes"]
        self.shape = value["shape"]
        inline = self.where == "inline"
        if self.dtype not in STORAGE:
            raise fail(f"tensor {self.name}: dtype {self.dtype} is not known")
        if len(self.shape) > 8 or not all(isinstance(n, int) and n >= 0 for n in self.shape):
            raise fail(f"tensor {self.name}: {self.shape} is no shape")
        size = STORAGE[self.dtype].itemsize
        for n in self.shape:
            size *= n
        if size != self.bytes:
            raise fail(f"tensor {self.name}: {self.bytes} bytes declared, its shape takes {size}")
        if self.where not in ("inline", "shm", "file") or inline != (self.path is None) or (inline and self.offset):
            raise fail(f"tensor {self.name}: {self.where} with that path and offset is no place")

    def view(self, memory: Any, offset: int) -> Array:
        if offset + self.bytes > len(memory):
            raise fail(f"tensor {self.name}: {self.bytes} bytes from {offset} do not lie in {self.path}")
        count = self.bytes // STORAGE[self.dtype].itemsize
        flat = np.frombuffer(memory, STORAGE[self.dtype], count, offset) if count else np.empty(0, STORAGE[self.dtype])
        array: Array = flat.reshape(self.shape)
        array.flags.writeable = False
        return array

    def referred(self, references: References) -> Tensor:
        array = self.view(references.open(self.where, self.path), self.offset)
        return Tensor(self.name, array, self.dtype, (self.where, self.path, self.offset))

    def inline(self, data: bytearray) -> Tensor:
        return Tensor(self.name, self.view(data, 0), self.dtype)
