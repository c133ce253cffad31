"""A stage that breaks one rule of the protocol: broken.py RULE (the name of a function below)."""
import json
import os
import sys
import time

from quantpipe_stage import edges, protocol, runtime, stage
from quantpipe_stage.edges import Input, Output
from quantpipe_stage.runtime import Runtime

rule = sys.argv.pop(1)


@stage(name="broken", summary="passes blocks on", each="unit")
def broken(context, unit):
    context.emit(unit)


def without(kind, send=Runtime.send):
    """Never sends a message of this kind to the runner."""
    Runtime.send = lambda self, sent, **body: None if sent == kind else send(self, sent, **body)


def changing(cls, kind, change):
    """Messages of this kind have another body."""
    send = getattr(cls, "_send" if cls is Input else "send")
    setattr(cls, send.__name__, lambda self, sent, **body: send(self, sent, **(change(body) if sent == kind else body)))


def describe():
    if "--describe" in sys.argv:
        sys.exit(print(json.dumps({k: v for k, v in broken.descriptor.items() if k != "protocol"})))


def hello(): changing(Runtime, "hello", lambda body: body | {"endpoints": {}})
def ready(): without("ready")
def done(): without("done")
def edge_messages(): changing(Input, "hello", lambda body: body | {"run": "another"})
def credit(): changing(Input, "credit", lambda body: body | {"units": 0})
def record(): changing(Runtime, "done", lambda body: body | {"edges": []})
def heartbeat(): Runtime._heartbeat = lambda self: None
def bye(): Runtime.close = lambda self: os._exit(7)
def swallow(): broken.function = lambda context, unit: None if unit.seq == 3 else context.emit(unit)
def stop(): runtime.Runtime._interrupt = lambda self, why: None
def ack(): edges.Receipt.hold = lambda self: None
def forget(): edges.Receipt.release = lambda self: None


def ack_early():
    """Says that it is done with a unit as soon as that has come."""
    finish = Input._finish
    Input._finish = lambda self, coming: (finish(self, coming), self.due.append(coming.seq))


def replay(): edges._Edge.lose = lambda self: setattr(self, "units_sent", 0)


def strangers():
    poll = Output._message
    def message(self, frames):
        try:
            poll(self, frames)
        except protocol.StageError:
            os._exit(1)
    Output._message = message


def tolerant(*words):
    """Goes on where the message of a failure has these words."""
    poll = Input._message
    def message(self, frames):
        try:
            poll(self, frames)
        except protocol.StageError as error:
            if not any(word in str(error) for word in words):
                raise
    Input._message = message


def garbage(): tolerant("msgpack", "header")
def lost_unit(): tolerant("lost")
def unknown_key(): tolerant("not known")


globals()[rule]()
broken.main()
