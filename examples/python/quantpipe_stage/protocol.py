"""Messages of libstage/wire/PROTOCOL.md: packed, unpacked, and held to its limits."""
from __future__ import annotations

import math
import os
import socket
from typing import Any

import msgpack  # type: ignore[import-untyped]

VERSION = 1
SMALL_HEADER, HEADER, UNIT_HEADER, CHUNK_LIMIT = 64 << 10, 1 << 20, 64 << 20, 4 << 20
CHUNK = 1 << 20  # bytes of a chunk that is sent
ALWAYS_INLINE = 32 << 10  # tensors of so few bytes are not worth a reference
WINDOW_UNITS, WINDOW_BLOCKS = 3, 3
DEPTH = 24

# Of each kind that comes in: its keys, with the types that they may have.
_INTEGER, _TEXT, _MAP, _LIST = (int,), (str,), (dict,), (list,)
FROM_RUNNER: dict[str, dict[str, tuple[type, ...]]] = {
    "config": {"run": _TEXT, "params": _MAP, "wants": _LIST, "context": _MAP, "inputs": _LIST, "outputs": _LIST,
               "scratch": _TEXT, "roots": _LIST, "threads": _INTEGER, "memory": _INTEGER, "blocks": _INTEGER, "drops": _LIST},
    "threads": {"threads": _INTEGER}, "stop": {}, "bye": {}}
FROM_CONSUMER: dict[str, dict[str, tuple[type, ...]]] = {
    "hello": {"protocol": _INTEGER, "run": _TEXT, "edge": _TEXT, "instance": _TEXT, "replica": _INTEGER, "host": _TEXT},
    "credit": {"bytes": _INTEGER, "units": _INTEGER}, "ack": {"seq": _INTEGER}, "release": {"seq": _INTEGER, "tensors": _LIST}}
FROM_PRODUCER: dict[str, dict[str, tuple[type, ...]]] = {
    "unit": {"kind": _TEXT, "seq": _INTEGER, "units": _INTEGER, "attrs": _MAP, "tensors": _LIST},
    "header": {"seq": _INTEGER, "bytes": _INTEGER, "offset": _INTEGER},
    "chunk": {"seq": _INTEGER, "tensor": _INTEGER, "offset": _INTEGER}}
TENSOR = {"name": _TEXT, "dtype": _TEXT, "shape": _LIST, "where": _TEXT, "path": (str, type(None)), "offset": _INTEGER,
          "bytes": _INTEGER}


class StageError(Exception):
    """Ends the stage, and the run, with a message and an exit code (2 usage, 3 input, 4 stage, 5 gate, 6 no space)."""

    def __init__(self, message: str, code: int = 4):
        super().__init__(message)
        self.code = code


def fail(message: str) -> StageError:
    return StageError(message, 4)


def _check_depth(value: Any, depth: int) -> None:
    if depth > DEPTH:
        raise fail(f"nested deeper than {DEPTH}")
    if isinstance(value, float) and not math.isfinite(value):
        raise fail("a number that is not finite")
    if isinstance(value, bytes):
        raise fail("a value that JSON does not have")
    if isinstance(value, str) and "\0" in value:
        raise fail("a string with NUL")
    for member in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_depth(member, depth + 1)


def _distinct(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    keys = dict(pairs)
    if len(keys) != len(pairs) or not all(isinstance(key, str) for key in keys):
        raise fail("a map whose keys are not distinct strings")
    return keys


def check_keys(value: Any, keys: dict[str, tuple[type, ...]], what: str) -> None:
    """Every key there, of its type, and no other but those that start with x-."""
    if not isinstance(value, dict):
        raise fail(f"{what}: not a map")
    for key, types in keys.items():
        if key not in value:
            raise fail(f"{what}: the key {key} is missing")
        found = value[key]
        if not isinstance(found, types) or isinstance(found, bool) or (isinstance(found, int) and found < 0):
            raise fail(f"{what}: the key {key} has the wrong type or is negative")
    for key in value:
        if key not in keys and not key.startswith("x-"):
            raise fail(f"{what}: the key {key} is not known")


def pack(kind: str, body: dict[str, Any], limit: int = HEADER) -> bytes:
    frame: bytes = msgpack.packb({"kind": kind, "body": body})
    if len(frame) > limit:
        raise StageError(f"a {kind} message of {len(frame)} bytes; at most {limit} can be sent", 3)
    return frame


def unpack(frame: bytes, kinds: dict[str, dict[str, tuple[type, ...]]], limit: int = HEADER) -> tuple[str, dict[str, Any]]:
    if len(frame) > limit:
        raise fail(f"a header of {len(frame)} bytes; at most {limit} are accepted")
    try:
        header = msgpack.unpackb(frame, object_pairs_hook=_distinct, strict_map_key=False)
    except StageError:
        raise
    except Exception as error:  # every way in which bytes are no msgpack
        raise fail(f"a header that is not msgpack: {error}") from None
    check_keys(header, {"kind": _TEXT, "body": _MAP}, "header")
    kind, body = header["kind"], header["body"]
    if kind not in kinds:
        raise fail(f"a message of unknown kind {kind[:40]}")
    if kind not in ("unit", "config") and len(frame) > SMALL_HEADER:
        raise fail(f"{kind}: a header of {len(frame)} bytes; at most {SMALL_HEADER} are accepted")
    check_keys(body, kinds[kind], kind)
    _check_depth(body, 2)
    return kind, body


def host_identity() -> str:
    """Processes with equal ones share files' pages and /dev/shm."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read(64).split("\n")[0]
        shm = os.stat("/dev/shm")
    except OSError:
        return f"{socket.gethostname()}-{os.getpid()}"  # nobody else's, so that all comes inline
    return f"{boot}/{shm.st_dev}/{shm.st_ino}/{os.geteuid()}"
