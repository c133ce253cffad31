"""Values that schemas/ allow and forbid, as the package jsonschema judges them: schemas.json, for tests/unit/schema_test.c.
From a good value of each definition come others, each with one thing changed: a key less, a key more, another type,
another word."""
import copy
import json
import pathlib

import jsonschema

ROOT = pathlib.Path(__file__).resolve().parents[3]
OTHERS = [None, True, -1, 7, 0.5, "", "word", [], [5], {}, {"x": 1}]

WORK = {"operations": {"gemm": 1}, "bytes_read": 1, "bytes_written": 1, "disk_read_bytes": 1, "disk_written_bytes": 1}
USE = {"wall_seconds": 1.5, "busy_seconds": 1, "cpu_seconds": 0.5, "peak_rss_bytes": 1, "peak_anonymous_bytes": 1,
       "units": 3, "work": WORK}
PRODUCER = {"edge": "a->b", "role": "producer", "sent": 3, "acknowledged": 3, "resent": 0, "bytes_inline": 5,
            "bytes_by_reference": 0}
CONSUMER = {"edge": "a->b", "role": "consumer", "received": 3, "duplicates": 0}
MESSAGES = {
    "stage-hello": {"protocol": 1, "stage": "mine", "version": 1, "pid": 5, "host": "h", "hostname": "n",
                    "endpoints": {"out": "ipc:///tmp/x"}, "gpus": []},
    "stage-ready": {}, "stage-heartbeat": {"rss_bytes": 5}, "stage-progress": {"done": 1, "total": 2},
    "stage-busy": {"unit": 3, "cpu_seconds": 0.5},
    "stage-waits": {"edge": "a->b", "what": "credit", "seq": 3, "moved": 9},
    "stage-report": {"key": "linears", "value": [1]},
    "stage-warning": {"code": "odd", "where": "here", "message": "text"},
    "stage-log": {"level": "info", "message": "text"},
    "stage-failed": {"code": 4, "message": "text", "seq": None},
    "stage-done": {"stage": USE, "edges": [PRODUCER, CONSUMER]},
}
DESCRIPTOR = {
    "quantpipe": 1, "name": "mine", "summary": "does it", "version": 1, "protocol": 1,
    "inputs": [{"name": "in", "needs": ["weights"], "help": None, "optional": False, "feedback": False, "collects": []}],
    "outputs": [{"name": "out", "provides": ["quantized"], "help": "blocks", "optional": True}],
    "params": [{"name": "bits", "type": "int", "default": "4", "min": 2, "max": 8, "choices": None, "help": None},
               {"name": "how", "type": "string", "choices": ["a", "b"]}],
    "needs": [{"what": "hessian", "param": "how", "value": "a", "scheme": None}], "collects": [], "forms": [],
    "data": None, "data_optional": False, "stateful": False, "estimates": False, "holds": 0, "uses": [], "copies": False,
}


def places(value, path=()):
    yield list(path)
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in items:
        yield from places(member, (*path, key))


def at(value, path):
    for key in path:
        value = value[key]
    return value


def changes(value):
    """Paths with what to put there; without a value the key goes."""
    for path in places(value):
        yield from ([path, other] for other in OTHERS if path)
        if isinstance(at(value, path), dict):
            yield from ([[*path, key], 1] for key in ("surplus", "x-note"))
        if path and isinstance(path[-1], str):
            yield [path]


def changed(value, path, *new):
    copied = copy.deepcopy(value)
    if new:
        at(copied, path[:-1])[path[-1]] = new[0]
    else:
        del at(copied, path[:-1])[path[-1]]
    return copied


def judged(schema, definition, value):
    whole = json.loads((ROOT / "schemas" / f"{schema}.schema.json").read_text())
    whole.pop("oneOf", None)
    validator = jsonschema.Draft202012Validator(whole | ({"$ref": f"#/$defs/{definition}"} if definition else {}))
    validator.validate(value)
    rows = {True: [], False: []}
    for change in changes(value):
        rows[validator.is_valid(changed(value, *change))].append(change)
    return {"schema": schema, "definition": definition, "value": value, "good": rows[True], "bad": rows[False]}


def main():
    rows = [judged("control", name, body) for name, body in MESSAGES.items()]
    rows.append(judged("stage", None, DESCRIPTOR))
    text = json.dumps(rows, separators=(",", ":")).replace('{"schema"', '\n{"schema"')
    pathlib.Path(__file__).with_name("schemas.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
