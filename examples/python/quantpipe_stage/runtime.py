"""The life of a stage process: a thread owns the sockets, sends heartbeats and moves units while the stage computes."""
from __future__ import annotations

import os
import resource
import signal
import socket
import sys
import threading
import time
from typing import Any

import zmq

from .edges import Input, Output, Receipt, Shared
from .protocol import (FROM_RUNNER, VERSION, WINDOW_BLOCKS, WINDOW_UNITS, StageError, fail, host_identity, pack, unpack)
from .unit import References, Unit

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
STOP_SECONDS = 0.7  # after a stop a stage in the middle of a computation has so long


def _memory() -> dict[str, int]:
    with open("/proc/self/status", encoding="ascii") as file:
        lines = dict(line.split(":", 1) for line in file)
    return {key: int(lines.get(key, "0 kB").split()[0]) * 1024 for key in ("VmRSS", "VmHWM", "RssAnon")}


def _cpu_seconds() -> float:
    use = resource.getrusage(resource.RUSAGE_SELF)
    return use.ru_utime + use.ru_stime


def _port_endpoint(control: str, name: str, port: str) -> str:
    """Beside the control socket where that is a file; else on the interface that reaches the runner."""
    if not control.startswith("tcp://"):
        return f"{control.rsplit('/', 1)[0]}/{name}.{port}"
    host, number = control[len("tcp://"):].rsplit(":", 1)
    family, _, _, _, address = socket.getaddrinfo(host.strip("[]"), int(number), type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:  # sends nothing: the kernel chooses the interface
        probe.connect(address)
        own = probe.getsockname()[0]
    return f"tcp://[{own}]:*" if ":" in own else f"tcp://{own}:*"


class Runtime:
    """What a running stage does with its runner and its peers. The methods below are for the main thread."""

    def __init__(self, descriptor: dict[str, Any], control: str, instance: str, replica: int):
        self.descriptor, self.instance, self.replica, self.host = descriptor, instance, replica, host_identity()
        self.lock = threading.Condition()
        self.config: dict[str, Any] | None = None
        self.error: StageError | None = None
        self.bye = self.quit = self.connected = False
        self.inputs: list[Input] = []
        self.outgoing: list[bytes] = []
        self.begun, self.busy_seconds, self.waited = time.monotonic(), 0.0, 0.0
        self.units = self.moved = self.peak = 0
        self.seq: int | None = None
        self.wait: dict[str, Any] | None = None
        self.stopped_at = 0.0
        self.context: zmq.Context[Any] = zmq.Context()
        self.control = self.context.socket(zmq.DEALER)
        self.control.linger, self.control.maxmsgsize = 2000, 8 << 20
        self.control.routing_id = f"{instance}.{replica}".encode()
        self.control.connect(control)
        self.outputs = [Output(self.context, port["name"], _port_endpoint(control, f"{instance}.{replica}", port["name"]))
                        for port in descriptor["outputs"]]
        self.shared = Shared("")
        self.wake_in, self.wake_out = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.send("hello", protocol=VERSION, stage=descriptor["name"], version=descriptor["version"], pid=os.getpid(),
                  host=self.host, hostname=socket.gethostname(), gpus=[],
                  endpoints={output.port: output.endpoint for output in self.outputs})
        for number in _SIGNALS: # the thread hears of them by their numbers, also while a computation keeps this one
            signal.signal(number, lambda *unused: None)
        signal.set_wakeup_fd(self.wake_out, warn_on_full_buffer=False)
        self.thread = threading.Thread(target=self._serve, name="sockets", daemon=True)
        self.thread.start()

    # ---- the main thread ----

    def send(self, kind: str, **body: Any) -> None:
        frame = pack(kind, body)
        with self.lock:
            self.outgoing.append(frame)
        self._wake()

    def wait_config(self) -> dict[str, Any]:
        limit = float(os.environ.get("QUANTPIPE_TIMEOUT", "60"))
        with self.lock:
            self.lock.wait_for(lambda: self.config or self.error, limit if limit > 0 else None)
            self._raise()
            if self.config is None:
                raise fail(f"no config from the runner within {limit:g} seconds")
            self._connect(self.config)
            return self.config

    def next(self) -> tuple[str, Unit, Receipt, Input] | None:
        """The unit that is next in order over all inputs, with its port; None when all have ended."""
        with self.lock:
            while True:
                self._raise()
                chosen = self._choose()
                if chosen is not None:
                    break
                self.lock.wait()
            self.wait, self.moved = None, self.moved + 1
            if isinstance(chosen, bool):
                return None
            unit, receipt = chosen.take()
        self.units += 1
        return chosen.port, unit, receipt, chosen

    def processed(self, source: Input, receipt: Receipt) -> None:
        with self.lock:
            source.processed(receipt)
            receipt.release()
        self._wake()

    def busy(self, seq: int | None) -> None:
        now = time.monotonic()
        if seq is not None:
            self._started, self._waited = now, self.waited
        elif self.seq is not None:
            self.busy_seconds += now - self._started - (self.waited - self._waited)
        self.seq = seq
        self.send("busy", unit=seq, cpu_seconds=_cpu_seconds())

    def emit(self, port: str | None, unit: Unit, origin: Receipt | None) -> None:
        names = [output.port for output in self.outputs]
        if not names or (port is not None and port not in names):
            raise fail(f"there is no output port {port}; there are {', '.join(names) or 'none'}")
        output = self.outputs[names.index(port) if port is not None else 0]
        with self.lock:
            self._await_space(output, unit.block)
            self._raise()
            output.push(unit, origin, self.shared)
        self._wake()

    def drain(self) -> None:
        """Until all that was emitted is acknowledged."""
        with self.lock:
            for output in self.outputs:
                if output.edges and not output.ended:
                    raise fail(f"the stage finished without an end unit for its output port {output.port}")
            while first := next((f for output in self.outputs if (f := output.unacknowledged())), None):
                self._raise()
                self.wait = {"edge": first[0], "what": "acknowledgement", "seq": first[1]}
                self.lock.wait()
            self.wait = None
            self._raise()

    def done(self) -> None:
        memory = _memory()
        with self.lock:
            edges = [r for output in self.outputs for r in output.records()] + [i.record() for i in self.inputs]
        self.send("done", edges=edges, stage={
            "wall_seconds": time.monotonic() - self.begun, "busy_seconds": max(self.busy_seconds, 0.0),
            "cpu_seconds": _cpu_seconds(), "peak_rss_bytes": memory["VmHWM"],
            "peak_anonymous_bytes": max(self.peak, memory["RssAnon"]), "units": self.units})
        with self.lock:
            self.lock.wait_for(lambda: self.bye or self.error, 60)

    def failed(self, error: StageError) -> None:
        print(f"{self.instance}: error: {error}", file=sys.stderr, flush=True)
        self.send("failed", code=error.code, message=str(error), seq=self.seq)

    def close(self) -> None:
        with self.lock:
            self.quit = True
        self._wake()
        self.thread.join()
        for endpoint in [self.control, *(o.socket for o in self.outputs), *(i.socket for i in self.inputs)]:
            endpoint.close()
        self.context.term()
        self.shared.close()

    def stopped(self) -> bool:
        return self.error is not None

    # ---- with the lock held ----

    def _raise(self) -> None:
        if self.error is not None:
            raise self.error

    def _connect(self, config: dict[str, Any]) -> None:
        half = (config["memory"] or 1 << 30) // 2
        references = References(config["run"], config["roots"])
        self.shared = Shared(config["run"])
        ports = {port["port"]: port["edges"] for port in config["outputs"]}
        for output in self.outputs:
            output.configure(config["run"], self.host, ports.get(output.port, []))
        peer = {"instance": self.instance, "replica": self.replica, "host": self.host}
        self.inputs = [Input(self.context, config, peer, edge, (half // len(config["inputs"]), WINDOW_UNITS), references)
                       for edge in config["inputs"]]
        keeps = self.descriptor.get("holds", 0) != 0 or not self.descriptor["inputs"]
        self.most_blocks = (config["blocks"] or WINDOW_BLOCKS) if keeps else 0
        self.connected = True
        self._wake()

    def _choose(self) -> Input | bool | None:
        """The input to take a unit from, True when all have ended, None while that cannot be known. Unit n that comes back
        from downstream stands between units n and n + 1 of the other inputs."""
        come = [source for source in self.inputs if source.ready]
        best = min(come, key=lambda source: (source.ready[0][0].seq, source.delayed), default=None)
        for source in self.inputs:
            if source.ready or source.ended:
                continue
            if best is not None:
                seq = best.ready[0][0].seq
                if source.taken >= seq or (source.taken == seq - 1 and source.delayed and not best.delayed):
                    continue
            self.wait = {"edge": source.edge, "what": "unit", "seq": source.taken + 1}
            return None
        return True if best is None else best

    def _await_space(self, output: Output, block: int) -> None:
        begun, told, seq = time.monotonic(), False, self.seq
        while self.error is None:
            unsent, first = output.waiting(), output.first_block()
            far = self.most_blocks > 0 and block >= 0 and 0 <= first <= block - self.most_blocks
            if unsent is None and not far:
                break
            edge = unsent or output.unacknowledged() or ("", 0)
            self.wait = {"edge": edge[0], "what": "credit" if unsent else "acknowledgement", "seq": edge[1]}
            if not told:
                self.outgoing.append(pack("busy", {"unit": None, "cpu_seconds": _cpu_seconds()}))
                self._wake()
            told = True
            self.lock.wait()
        self.wait = None
        if told:
            self.moved, self.waited = self.moved + 1, self.waited + time.monotonic() - begun
            self.outgoing.append(pack("busy", {"unit": seq, "cpu_seconds": _cpu_seconds()}))

    # ---- the thread of the sockets ----

    def _wake(self) -> None:
        try:
            os.write(self.wake_out, b"x")
        except BlockingIOError:  # full: it is awake
            pass

    def _interrupt(self, why: str) -> None:
        self.error = self.error or StageError(why, 130)
        self.stopped_at = self.stopped_at or time.monotonic()
        self._wake()

    def _command(self, kind: str, body: dict[str, Any]) -> None:
        if kind == "stop":
            self._interrupt("stopped by the runner")
        elif kind == "bye":
            self.bye = True
        elif kind == "config" and self.config is None:
            self.config = body

    def _step(self) -> bool:
        happened = False
        while int(self.control.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            frames = self.control.recv_multipart()
            if len(frames) != 1:
                raise fail(f"from the runner: a message of {len(frames)} frames")
            self._command(*unpack(frames[0], FROM_RUNNER))
            happened = True
        for frame in self.outgoing:
            self.control.send(frame)
        self.outgoing = []
        if self.connected and self.error is None:
            for output in self.outputs:
                happened |= output.poll()
            for source in self.inputs:
                happened |= source.poll()
            for output in self.outputs:
                for why in output.rejected:
                    body = {"code": "refused-message", "where": output.port, "message": why}
                    self.control.send(pack("warning", body))
                output.rejected = []
        self.moved += happened
        return happened

    def _heartbeat(self) -> None:
        memory = _memory()
        self.peak = max(self.peak, memory["RssAnon"])
        self.control.send(pack("heartbeat", {"rss_bytes": memory["VmRSS"]}))
        if self.wait is not None:
            self.control.send(pack("waits", self.wait | {"moved": self.moved}))

    def _serve(self) -> None:
        last = 0.0
        while True:
            with self.lock:
                try:
                    busy = self._step()
                    if time.monotonic() - last >= 1.0:
                        last = time.monotonic()
                        self._heartbeat()
                except StageError as error:
                    self.error, busy = self.error or error, False
                self.lock.notify_all()
                if self.quit and not busy:
                    return
                if self.stopped_at and time.monotonic() - self.stopped_at > STOP_SECONDS:
                    self._end_process()
                sockets = [self.control, *(o.socket for o in self.outputs), *(i.socket for i in self.inputs)]
            poller: Any = zmq.Poller()
            for item in [self.wake_in, *(sockets if self.connected else sockets[:1])]:
                poller.register(item, zmq.POLLIN)
            poller.poll(0 if busy else 200)
            try:
                number = next((byte for byte in os.read(self.wake_in, 4096) if byte in _SIGNALS), None)
            except BlockingIOError:
                continue
            if number is not None:
                with self.lock:
                    self._interrupt(f"interrupted by {signal.Signals(number).name}")

    def _end_process(self) -> None:
        """The main thread is in the middle of a computation, and what it computes is of no use."""
        self.control.send(pack("failed", {"code": 130, "message": str(self.error), "seq": self.seq}))
        self.shared.close()
        time.sleep(0.05)
        os._exit(130)
