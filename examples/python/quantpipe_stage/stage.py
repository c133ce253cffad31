"""The decorator that makes a stage of a function."""
from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal

from .edges import Receipt
from .network import Block, Model, drop_statistics
from .protocol import VERSION, StageError
from .runtime import Runtime
from .unit import Unit


@dataclass(frozen=True)
class Param:
    """A parameter of `with:`; type is bool, int, float, string or percent. Declared here, checked by the runner."""

    type: Literal["bool", "int", "float", "string", "percent"]
    default: Any = None
    help: str = ""
    min: float | None = None
    max: float | None = None
    choices: tuple[str, ...] | None = None

    def describe(self, name: str) -> dict[str, Any]:
        default = self.default
        text = None if default is None else str(default).lower() if isinstance(default, bool) else str(default)
        return {"name": name, "type": self.type, "default": text, "min": self.min, "max": self.max,
                "choices": list(self.choices) if self.choices else None, "help": self.help}

    def read(self, value: Any) -> Any:
        if self.type == "percent" and isinstance(value, str):
            return float(value.rstrip("%")) / (100 if value.endswith("%") else 1)
        return float(value) if self.type in ("float", "percent") and value is not None else value


@dataclass
class Context:
    """The running stage, the first argument of its functions."""

    runtime: Runtime
    params: SimpleNamespace
    config: dict[str, Any]
    model: Model | None = None
    port: str = ""  # input port of the unit in process
    state: SimpleNamespace = field(default_factory=SimpleNamespace)  # the stage's own
    _origin: Receipt | None = None

    @property
    def scheme(self) -> dict[str, Any]:
        scheme: dict[str, Any] = self.config["context"]["scheme"]
        return scheme

    @property
    def data(self) -> dict[str, Any] | None:
        """The entry under `data:` that the descriptor asks for."""
        data: dict[str, Any] | None = self.config["context"].get("data")
        return data

    @property
    def scratch(self) -> str:
        """A folder of this stage's own in the run folder."""
        folder: str = self.config["scratch"]
        return folder

    def wants(self, word: str) -> bool:
        """Whether a stage downstream asked for a statistic that this one collects."""
        return word in self.config["wants"]

    def emit(self, unit: Unit, port: str | None = None) -> None:
        """Sends a unit; waits while the consumers have no space. Not called for what the stage passes on by itself."""
        if unit.kind == "block" and self.model is not None and self.config["drops"]:
            drop_statistics(self.model, unit, self.config["drops"])
        self.runtime.emit(port, unit, self._origin)
        self.runtime.units += self._origin is None

    def log(self, message: str, level: Literal["info", "warning"] = "info") -> None:
        print(f"{self.runtime.instance}: {level}: {message}", file=sys.stderr, flush=True)
        self.runtime.send("log", level=level, message=message)

    def warn(self, code: str, where: str, message: str) -> None:
        """A warning for the report: a code, the name of a tensor or a file, and a message."""
        self.runtime.send("warning", code=code, where=where, message=message)

    def report(self, key: str, value: Any) -> None:
        """Something for report.json. The same key again replaces, or appends when both are lists."""
        self.runtime.send("report", key=key, value=value)

    def progress(self, done: int, total: int) -> None:
        self.runtime.send("progress", done=done, total=total)

    def stopped(self) -> bool:
        """Whether the run is being stopped: long loops ask now and then."""
        return self.runtime.stopped()


Function = Callable[..., Any]


@dataclass
class Stage:
    """A stage: call it to run the program."""

    function: Function
    descriptor: dict[str, Any]
    params: dict[str, Param]
    each: str
    begin: Function | None = None
    end: Function | None = None

    def start(self, function: Function) -> Function:
        """Decorates what is called with the context once the model unit has come."""
        self.begin = function
        return function

    def finish(self, function: Function) -> Function:
        """Decorates what is called with the context when the end unit has come, before it is passed on."""
        self.end = function
        return function

    def __call__(self, arguments: list[str] | None = None) -> int:
        parser = argparse.ArgumentParser(prog=self.descriptor["name"], description=self.descriptor["summary"])
        parser.add_argument("--describe", action="store_true", help="print what the stage is, as JSON")
        parser.add_argument("--control", help="the runner's endpoint")
        parser.add_argument("--instance", help="the stage's name in the pipeline")
        parser.add_argument("--replica", type=int, default=0)
        given = parser.parse_args(arguments)
        if given.describe:
            print(json.dumps(self.descriptor, indent=2))
            return 0
        if not given.control or not given.instance:
            parser.error("--control and --instance are needed; quantpipe gives them")
        return self._live(Runtime(self.descriptor, given.control, given.instance, given.replica))

    def main(self) -> None:
        sys.exit(self())

    def _live(self, runtime: Runtime) -> int:
        code = 0
        try:
            self._work(runtime)
            runtime.done()
        except StageError as error:
            code = error.code
            runtime.failed(error)
        except MemoryError as error:
            code = 6
            runtime.failed(StageError(f"no memory: {error}", code))
        except Exception as error:  # the author's
            code = 4
            traceback.print_exc()
            runtime.failed(runtime.error or StageError(f"{type(error).__name__}: {error}", code))
        runtime.close()
        return code

    def _work(self, runtime: Runtime) -> None:
        config = runtime.wait_config()
        given = {name: param.read(config["params"].get(name)) for name, param in self.params.items()}
        context = Context(runtime, SimpleNamespace(**given), config)
        runtime.send("ready")
        if not self.descriptor["inputs"]:
            runtime.busy(0)
            self.function(context)
            runtime.busy(None)
        while self.descriptor["inputs"] and (come := runtime.next()):
            port, unit, receipt, source = come
            runtime.busy(unit.seq)
            context.port, context._origin = port, receipt
            self.process(context, unit, source.delayed)
            context._origin = None
            del unit, come  # and with it the last arrays of shared memory
            runtime.busy(None)
            runtime.processed(source, receipt)
        runtime.drain()

    def process(self, context: Context, unit: Unit, comes_back: bool) -> None:
        if unit.kind == "model" and not comes_back:
            if context.config["context"].get("replaces_scheme"):
                unit.attrs["scheme"] = context.scheme
            context.model = Model(unit)
            if self.begin:
                self.begin(context)
        if unit.kind == "end" and not comes_back and self.end:
            self.end(context)
        if self.each == "unit":
            self.function(context, unit)
            return
        if unit.kind == "block":
            if context.model is None:
                raise StageError(f"block unit {unit.seq} came before the model unit")
            block = context.model.block(unit)
            if block.is_layer or self.each == "block":
                self.function(context, block)
            if not comes_back:
                context.progress(unit.block, context.model.blocks)
        if not comes_back and self.descriptor["outputs"]:
            context.emit(unit)


def _ports(ports: Iterable[str | dict[str, Any]], extra: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"name": p} | extra if isinstance(p, str) else p for p in ports]


def stage(*, name: str, summary: str, version: int = 1, each: Literal["layer", "block", "unit"] = "layer",
          params: dict[str, Param] | None = None, needs: Iterable[str] = ("weights",), provides: Iterable[str] = (),
          statistics: Iterable[str | dict[str, Any]] = (), inputs: Iterable[str | dict[str, Any]] = ("in",),
          outputs: Iterable[str | dict[str, Any]] = ("out",), **more: Any) -> Callable[[Function], Stage]:
    """Makes a stage of a function.

    each      what the function is called with after the context: every decoder layer (a Block), every block, the embedding
              and the head included, or every unit. Units are passed on after it, but with "unit" the function emits them.
              A stage without inputs is called once, with the context alone, and emits everything.
    needs, provides   words for the type check of edges: "weights", "statistics", "quantized"
    statistics        what calibrate has to collect for it: words, or mappings {what, param, value, scheme}
    more      other keys of schemas/stage.schema.json: collects, data, holds, uses ...
    """
    params = params or {}
    wanted = [{"what": s} if isinstance(s, str) else s for s in statistics]
    descriptor = {"quantpipe": 1, "protocol": VERSION, "name": name, "summary": summary, "version": version,
                  "inputs": _ports(inputs, {"needs": list(needs)}), "outputs": _ports(outputs, {"provides": list(provides)}),
                  "params": [param.describe(key) for key, param in params.items()], "needs": wanted, "collects": [],
                  "uses": [s["what"] for s in wanted], "data": None, "data_optional": False, "stateful": True} | more
    return lambda function: Stage(function, descriptor, params, each)


