"""Both ends of an edge. Everything here runs with the lock of runtime.py held, and sockets belong to its thread."""
from __future__ import annotations

import mmap
import os
from typing import Any

import zmq

from .protocol import (ALWAYS_INLINE, CHUNK, CHUNK_LIMIT, FROM_CONSUMER, FROM_PRODUCER, HEADER, UNIT_HEADER, VERSION,
                       StageError, fail, pack, unpack)
from .unit import Entry, References, Tensor, Unit


class Receipt:
    """A unit that came in: it is acknowledged when all who hold this have let go."""

    def __init__(self, home: "Input", seq: int, cost: int):
        self.home, self.seq, self.cost, self.holders = home, seq, cost, 1

    def hold(self) -> None:
        self.holders += 1

    def release(self) -> None:
        self.holders -= 1
        if self.holders == 0:
            self.home.due.append(self.seq)


class _Coming:
    """A unit whose bytes are on their way."""

    def __init__(self, body: dict[str, Any]):
        self.kind, self.seq, self.attrs = body["kind"], body["seq"], body["attrs"]
        self.entries = [Entry(value) for value in body["tensors"]]
        self.cost = sum(entry.bytes for entry in self.entries if entry.where != "file")
        self.data = [bytearray(e.bytes) if e.where == "inline" else None for e in self.entries]
        self.tensor = self.at = 0
        if self.kind not in ("model", "block", "end"):
            raise fail(f"unit {self.seq}: {self.kind} is neither model, block nor end")

    def whole(self) -> bool:
        while self.tensor < len(self.entries) and (self.data[self.tensor] is None
                                                   or self.at == self.entries[self.tensor].bytes):
            self.tensor, self.at = self.tensor + 1, 0
        return self.tensor == len(self.entries)

    def take(self, body: dict[str, Any], frame: bytes) -> None:
        if body["seq"] != self.seq or self.whole() or (body["tensor"], body["offset"]) != (self.tensor, self.at):
            raise fail(f"unit {body['seq']}: a chunk of tensor {body['tensor']} at byte {body['offset']} that is not the "
                       "next one")
        data = self.data[self.tensor]
        if data is None or not 0 < len(frame) <= min(CHUNK_LIMIT, len(data) - self.at):
            raise fail(f"unit {self.seq}: {self.entries[self.tensor].name}: a chunk of {len(frame)} bytes at {self.at}")
        data[self.at:self.at + len(frame)] = frame
        self.at += len(frame)

    def unit(self, references: References) -> Unit:
        unit = Unit(self.kind, self.seq, self.attrs)
        for entry, data in zip(self.entries, self.data):
            if entry.name in unit.tensors:
                raise fail(f"unit {self.seq}: tensor {entry.name} is there twice")
            unit.tensors[entry.name] = entry.inline(data) if data is not None else entry.referred(references)
        return unit


class Input:
    """The consumer's end of an edge."""

    def __init__(self, context: zmq.Context[Any], config: dict[str, Any], peer: dict[str, Any], edge: dict[str, Any],
                 window: tuple[int, int], references: References):
        (source,) = edge["from"]
        self.port, self.edge, self.delayed = edge["port"], edge["edge"], bool(edge.get("delay"))
        self.local, self.references = source["host"] == peer["host"], references
        self.bytes_left, self.units_left = self.window = window
        self.return_bytes = self.return_units = 0
        self.coming: _Coming | None = None
        self.header, self.header_seq = bytearray(), -1
        self.ready: list[tuple[Unit, Receipt]] = []
        self.open: set[int] = set()
        self.due: list[int] = []
        self.last = self.taken = -1
        self.units = self.received = self.duplicates = 0
        self.ended = False
        self.socket = context.socket(zmq.DEALER)
        self.socket.linger, self.socket.maxmsgsize = 2000, 8 << 20
        self.socket.sndhwm = self.socket.rcvhwm = 0
        self.socket.routing_id = f"{self.edge}/{peer['replica']}".encode()
        self.socket.connect(source["endpoint"])
        self._send("hello", protocol=VERSION, run=config["run"], edge=self.edge, **peer)
        self._send("credit", bytes=window[0], units=window[1])

    def _send(self, kind: str, **body: Any) -> None:
        self.socket.send(pack(kind, body))

    def take(self) -> tuple[Unit, Receipt]:
        unit, receipt = self.ready.pop(0)
        self.taken, self.ended = unit.seq, unit.kind == "end"
        return unit, receipt

    def processed(self, receipt: Receipt) -> None:
        self.return_bytes += receipt.cost
        self.return_units += 1

    def poll(self) -> bool:
        """Reads what has come, sends credit and acknowledgements; whether something came."""
        try:
            happened = False
            while self.socket.getsockopt(zmq.EVENTS) & zmq.POLLIN:
                self._message(self.socket.recv_multipart())
                happened = True
            for seq in self.due:
                self.open.discard(seq)
                self._send("ack", seq=seq)
            self.due = []
            if self.return_units:
                self.bytes_left, self.units_left = self.bytes_left + self.return_bytes, self.units_left + self.return_units
                self._send("credit", bytes=self.return_bytes, units=self.return_units)
                self.return_bytes = self.return_units = 0
            return happened
        except StageError as error:
            raise fail(f"edge {self.edge}: {error}") from None

    def _message(self, frames: list[bytes]) -> None:
        kind, body = unpack(frames[0], FROM_PRODUCER)
        if len(frames) != (1 if kind == "unit" else 2):
            raise fail(f"a {kind} of {len(frames)} frames")
        if self.header and kind != "header":
            raise fail(f"a {kind} before all parts of the header of unit {self.header_seq}")
        if kind == "chunk":
            if self.coming is None:
                raise fail(f"unit {body['seq']}: a chunk of no unit")
            self.coming.take(body, frames[1])
        elif kind == "unit":
            self._begin(body)
        elif not self._part(body, frames[1]):
            return
        if self.coming is not None and self.coming.whole():
            coming, self.coming = self.coming, None
            self._finish(coming)

    def _part(self, body: dict[str, Any], frame: bytes) -> bool:
        """A part of a unit's header; true with the last one."""
        self.header_seq = self.header_seq if self.header else body["seq"]
        if (body["seq"], body["offset"]) != (self.header_seq, len(self.header)) or body["bytes"] > UNIT_HEADER:
            raise fail(f"unit {body['seq']}: a part of its header that is not the next one, or beyond its limit")
        if not 0 < len(frame) <= min(CHUNK_LIMIT, body["bytes"] - len(self.header)):
            raise fail(f"unit {body['seq']}: a part of its header of {len(frame)} bytes")
        self.header += frame
        if len(self.header) < body["bytes"]:
            return False
        whole, self.header = bytes(self.header), bytearray()
        self._begin(unpack(whole, {"unit": FROM_PRODUCER["unit"]}, UNIT_HEADER)[1])
        return True

    def _begin(self, body: dict[str, Any]) -> None:
        if self.coming is not None:
            raise fail(f"unit {body['seq']} came before all bytes of unit {self.coming.seq}")
        coming = _Coming(body)
        if body["units"] != self.units:
            raise fail(f"unit {coming.seq}: {body['units']} units were sent before it, {self.units} have come: some are lost")
        if self.units_left <= 0 or (self.bytes_left < self.window[0] and coming.cost > self.bytes_left):
            raise fail(f"unit {coming.seq}: it came without credit")
        if not self.local and any(entry.where != "inline" for entry in coming.entries):
            raise fail(f"unit {coming.seq}: refers to memory of another host")
        self.units_left, self.bytes_left, self.units = self.units_left - 1, self.bytes_left - coming.cost, self.units + 1
        self.coming = coming

    def _finish(self, coming: _Coming) -> None:
        receipt = Receipt(self, coming.seq, coming.cost)
        if coming.seq <= self.last:  # sent again: it costs no more than its credit
            self.duplicates += 1
            self.processed(receipt)
            if coming.seq not in self.open:
                self.due.append(coming.seq)
            return
        self.last, self.received = coming.seq, self.received + 1
        self.open.add(coming.seq)
        self.ready.append((coming.unit(self.references), receipt))

    def record(self) -> dict[str, Any]:
        return {"edge": self.edge, "role": "consumer", "received": self.received, "duplicates": self.duplicates}


class Shared:
    """Shared memory of this process, for consumers on this host; unlinked when the unit that it was made for is done."""

    def __init__(self, run: str):
        self.prefix, self.number = f"/qp-{run}-{os.getpid()}-", 0
        self.paths: set[str] = set()

    def copy(self, tensor: Tensor) -> bool:
        """Puts a tensor into an object of its own; false when there is no space for it."""
        path = f"{self.prefix}{self.number}"
        self.number += 1
        try:
            descriptor = os.open(f"/dev/shm{path}", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        except OSError:
            return False
        self.paths.add(path)
        try:
            os.posix_fallocate(descriptor, 0, tensor.array.nbytes)
            with mmap.mmap(descriptor, tensor.array.nbytes) as memory:
                memory.write(tensor.array.reshape(-1).view("u1").data)
        except OSError:
            self.unlink(path)
            return False
        finally:
            os.close(descriptor)
        tensor.place = ("shm", path, 0)
        return True

    def unlink(self, path: str) -> None:
        if path in self.paths:
            self.paths.discard(path)
            os.unlink(f"/dev/shm{path}")

    def close(self) -> None:
        for path in list(self.paths):
            self.unlink(path)


class _Queued:
    """An emitted unit, until all consumers have acknowledged it."""

    def __init__(self, unit: Unit, origin: Receipt | None, shared: Shared):
        self.seq, self.kind, self.block, self.attrs = unit.seq, unit.kind, unit.block, unit.attrs
        self.tensors, self.origin, self.shared, self.holders = list(unit), origin, shared, 0
        self.own: list[str] = []
        if origin is not None:
            origin.hold()

    def share(self) -> None:
        for tensor in self.tensors:
            if tensor.place is None and tensor.array.nbytes > ALWAYS_INLINE and self.shared.copy(tensor):
                self.own.append(tensor.place[1])  # type: ignore[index]

    def release(self) -> None:
        self.holders -= 1
        if self.holders == 0:
            for path in self.own:
                self.shared.unlink(path)
            if self.origin is not None:
                self.origin.release()


class _Edge:
    def __init__(self, name: str):
        self.name, self.peer, self.local, self.window = name, b"", True, -1
        self.entries: list[tuple[_Queued, list[bool]]] = []  # with [sent, sent before]
        self.bytes = self.units = self.units_sent = 0
        self.sent = self.acknowledged = self.resent = self.inline = self.referred = 0

    def lose(self) -> None:
        self.peer, self.window, self.bytes, self.units, self.units_sent = b"", -1, 0, 0, 0
        for _, state in self.entries:
            state[0] = False


def _where(tensor: Tensor, local: bool) -> str:
    return tensor.place[0] if local and tensor.place and tensor.array.nbytes > ALWAYS_INLINE else "inline"


class Output:
    """The producer's end: one port with the edges that leave from it."""

    def __init__(self, context: zmq.Context[Any], port: str, endpoint: str):
        self.port, self.edges, self.run, self.host = port, list[_Edge](), "", ""
        self.ended, self.last, self.rejected = False, -1, list[str]()
        self.socket = context.socket(zmq.ROUTER)
        self.socket.linger, self.socket.maxmsgsize = 2000, 8 << 20
        self.socket.sndhwm = self.socket.rcvhwm = 0
        self.socket.router_mandatory = self.socket.router_handover = 1
        self.socket.bind(endpoint)
        self.endpoint: str = self.socket.last_endpoint.decode().rstrip("\0")

    def configure(self, run: str, host: str, edges: list[dict[str, Any]]) -> None:
        self.run, self.host = run, host
        self.edges = [_Edge(edge["edge"]) for edge in edges]

    def push(self, unit: Unit, origin: Receipt | None, shared: Shared) -> None:
        if unit.seq <= self.last:
            raise fail(f"unit {unit.seq} emitted after unit {self.last}; seq has to grow")
        if self.ended:
            raise fail(f"unit {unit.seq} emitted after the end unit")
        self.last, self.ended = unit.seq, unit.kind == "end"
        queued = _Queued(unit, origin, shared)
        if any(edge.local for edge in self.edges):
            queued.share()
        queued.holders = len(self.edges) + 1
        for edge in self.edges:
            edge.entries.append((queued, [False, False]))
        queued.release()

    def waiting(self) -> tuple[str, int] | None:
        """Edge and seq of the first unit that is not sent."""
        return next(((edge.name, q.seq) for edge in self.edges for q, state in edge.entries if not state[0]), None)

    def unacknowledged(self) -> tuple[str, int] | None:
        return next(((edge.name, edge.entries[0][0].seq) for edge in self.edges if edge.entries), None)

    def first_block(self) -> int:
        """The lowest number of a block that is not acknowledged; -1: none."""
        return min((q.block for edge in self.edges for q, _ in edge.entries if q.block >= 0), default=-1)

    def poll(self) -> bool:
        happened = False
        while self.run and self.socket.getsockopt(zmq.EVENTS) & zmq.POLLIN:
            try:
                self._message(self.socket.recv_multipart())
            except StageError as error:
                self.rejected.append(str(error))
            happened = True
        for edge in self.edges:
            happened |= self._send(edge)
        return happened

    def _message(self, frames: list[bytes]) -> None:
        if len(frames) != 2:
            raise fail(f"a message of {len(frames)} frames; expected 2")
        kind, body = unpack(frames[1], FROM_CONSUMER)
        if kind == "hello":
            return self._hello(frames[0], body)
        edge = next((e for e in self.edges if e.peer == frames[0]), None)
        if edge is None:
            raise fail(f"{kind} from a consumer that has not said hello")
        if kind == "credit":
            edge.window = body["bytes"] if edge.window < 0 else edge.window
            edge.bytes, edge.units = edge.bytes + body["bytes"], edge.units + body["units"]
        elif kind == "ack":
            self._acknowledged(edge, body["seq"])
        return None

    def _hello(self, peer: bytes, body: dict[str, Any]) -> None:
        who = body["instance"]
        if body["protocol"] != VERSION:
            raise fail(f"a consumer {who} that speaks protocol version {body['protocol']}; this is version {VERSION}")
        if body["run"] != self.run:
            raise fail(f"a consumer {who} of another run")
        edge = next((e for e in self.edges if e.name == body["edge"]), None)
        if edge is None:
            raise fail(f"a consumer {who} of an edge {body['edge']} that does not leave here")
        edge.lose()
        edge.peer, edge.local = peer, body["host"] == self.host

    @staticmethod
    def _acknowledged(edge: _Edge, seq: int) -> None:
        for entry in edge.entries:
            if entry[0].seq == seq and entry[1][1]:
                edge.entries.remove(entry)
                edge.acknowledged += 1
                entry[0].release()
                return

    def _send(self, edge: _Edge) -> bool:
        happened = False
        for queued, state in edge.entries:
            if state[0]:
                continue
            if edge.window < 0 or edge.units <= 0:
                break
            ways = [_where(tensor, edge.local) for tensor in queued.tensors]
            sizes = {way: sum(t.array.nbytes for t, w in zip(queued.tensors, ways) if w == way) for way in set(ways)}
            cost = sizes.get("inline", 0) + sizes.get("shm", 0)
            if edge.bytes < edge.window and cost > edge.bytes:
                break
            try:
                self._send_unit(edge, queued, ways)
            except zmq.ZMQError:  # the consumer is gone: all waits for its successor
                edge.lose()
                break
            edge.units, edge.bytes, edge.units_sent = edge.units - 1, edge.bytes - cost, edge.units_sent + 1
            edge.resent, edge.sent = edge.resent + state[1], edge.sent + (not state[1])
            edge.inline += sizes.get("inline", 0)
            edge.referred += sizes.get("shm", 0) + sizes.get("file", 0)
            state[0] = state[1] = happened = True
        return happened

    def _send_unit(self, edge: _Edge, queued: _Queued, ways: list[str]) -> None:
        tensors = [{"name": t.name, "dtype": t.dtype, "shape": list(t.shape), "where": way, "bytes": t.array.nbytes,
                    "path": t.place[1] if way != "inline" and t.place else None,
                    "offset": t.place[2] if way != "inline" and t.place else 0} for t, way in zip(queued.tensors, ways)]
        frame = pack("unit", {"kind": queued.kind, "seq": queued.seq, "units": edge.units_sent, "attrs": queued.attrs,
                              "tensors": tensors}, UNIT_HEADER)
        if len(frame) <= HEADER:
            self.socket.send_multipart([edge.peer, frame])
        for at in range(0, len(frame) if len(frame) > HEADER else 0, CHUNK):
            part = pack("header", {"seq": queued.seq, "bytes": len(frame), "offset": at})
            self.socket.send_multipart([edge.peer, part, frame[at:at + CHUNK]])
        for i, (tensor, way) in enumerate(zip(queued.tensors, ways)):
            data = tensor.array.reshape(-1).view("u1") if way == "inline" and tensor.array.nbytes else b""
            for at in range(0, len(data), CHUNK):
                chunk = pack("chunk", {"seq": queued.seq, "tensor": i, "offset": at})
                self.socket.send_multipart([edge.peer, chunk, bytes(data[at:at + CHUNK])])

    def records(self) -> list[dict[str, Any]]:
        return [{"edge": e.name, "role": "producer", "sent": e.sent, "acknowledged": e.acknowledged, "resent": e.resent,
                 "bytes_inline": e.inline, "bytes_by_reference": e.referred} for e in self.edges]
