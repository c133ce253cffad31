"""Holds the programs to the published contracts in schemas/: what every stage says of itself, pipelines, the report and
the events of a run, what a machine was measured at. Usage: schemas.py [QUANTPIPE [WORK_FOLDER]]. Prints PASS and FAIL lines."""
import json
import os
import pathlib
import shutil
import subprocess
import sys

import jsonschema
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]


def validator(name):
    schema = json.loads((ROOT / "schemas" / f"{name}.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def check(what, name, values):
    errors = [f"{e.json_path}: {e.message}" for v in values for e in validator(name).iter_errors(v)]
    print(f"FAIL {what}: {errors[0][:300]}" if errors else f"PASS {what}")
    return not errors


def run(quantpipe, work, *arguments):
    """A short run: its events and its report."""
    output = work / "schemas"
    for path in (output, output.with_name("schemas-int8"), output.with_name("schemas.run")):
        shutil.rmtree(path, ignore_errors=True)
    done = subprocess.run(
        [quantpipe, "run", ROOT / "pipeline.yaml", "--output", output, "--progress", "json",
         "--set", "data.calibration.samples=4", "--set", "data.evaluation.samples=4", *arguments],
        capture_output=True, text=True)
    folder = output.with_name("schemas.run")
    return ([json.loads(line) for line in done.stdout.splitlines()], json.loads((folder / "report.json").read_text()),
            json.loads((folder / "pipeline.json").read_text()))


def check_presets(quantpipe, stages):
    """Mappings of the presets are schemes of the schema, and what gives a peer's method are parameters of the stages."""
    presets = json.loads(subprocess.run([quantpipe, "schemes", "--json"], capture_output=True, check=True).stdout)["schemes"]
    base = yaml.safe_load((ROOT / "pipeline.yaml").read_text())
    good = check(f"{len(presets)} presets", "pipeline", [base | {"scheme": p["mapping"]} for p in presets])
    params = {(s["name"], p["name"]): p for s in stages for p in s["params"]}
    settings = sorted({setting for p in presets for m in p["methods"] for setting in m["set"]})
    wrong = []
    for setting in settings:
        path, value = setting.split("=")
        _, stage, _, name = path.split(".")
        param = params.get((stage, name))
        if not param or value not in (param.get("choices") or [value]):
            wrong.append(setting)
    print(f"{'FAIL' if wrong else 'PASS'} {len(settings)} settings of methods are the stages' own; wrong: {wrong or 0}")
    return good and not wrong


def check_doctor(quantpipe, work):
    """What it measures is kept as the schema says, under a cache folder of our own."""
    cache = work / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    subprocess.run([quantpipe, "doctor", "--bench", "--json", "--folder", work], capture_output=True, check=True,
                   env=os.environ | {"XDG_CACHE_HOME": str(cache)})
    return check("machine.json", "machine", [json.loads((cache / "quantpipe/machine.json").read_text())])


def check_estimates(quantpipe, stages):
    """What built-in stages answer to --estimate, about the embedded model."""
    folder = pathlib.Path(quantpipe).resolve().parent.parent / "libexec/quantpipe"
    config = json.loads((ROOT / "examples/tiny/config.json").read_text())
    question = {"quantpipe": 1, "model": {"path": str(ROOT / "examples/tiny"), "config": config, "tokenizer": None,
                                          "scheme": "int4", "blocks": config["num_hidden_layers"] + 2},
                "params": {}, "wants": ["hessian"], "upstream": ["hessian"],
                "text": {"windows": 4, "length": 64}, "feedback": False}
    schema = json.loads((ROOT / "schemas/estimate.schema.json").read_text())
    jsonschema.Draft202012Validator(schema | {"$ref": "#/$defs/question"}).validate(question)
    names = [s["name"] for s in stages if s["estimates"]]
    answers = [json.loads(subprocess.run([folder / name, "--estimate"], input=json.dumps(question), text=True,
                                         capture_output=True, check=True).stdout) for name in names]
    return check(f"--estimate of {len(names)} stages", "estimate", answers)


def main():
    given = sys.argv[1:]
    quantpipe = given[0] if given else ROOT / "build/bin/quantpipe"
    work = pathlib.Path(given[1] if len(given) > 1 else ROOT / "build/interop").resolve()
    work.mkdir(parents=True, exist_ok=True)
    stages = json.loads(subprocess.run([quantpipe, "stages", "--json"], capture_output=True, check=True).stdout)
    good = [check(f"--describe of {s['name']}", "stage", [s]) for s in stages["stages"]]
    good.append(check_presets(quantpipe, stages["stages"]))
    good.append(check_estimates(quantpipe, stages["stages"]))
    good.append(check_doctor(quantpipe, work))
    pipelines = [ROOT / "pipeline.yaml", *sorted((ROOT / "examples").glob("*/pipeline.yaml"))]
    good += [check(str(p.relative_to(ROOT)), "pipeline", [yaml.safe_load(p.read_text())]) for p in pipelines]
    gate = ("--set", "stages.validate.with.max_perplexity_increase=0%",
            "--set", "scheme={weights: {format: int2, group: 128}}")
    several = ("--set", "scheme=[int8, {name: two, weights: {format: int2, group: 128}}]",
               "--set", "stages.validate.with.max_perplexity_increase=5%")
    strict = ("--strict", "--set", "scheme={weights: {format: int8}, ignore: [lm_head, absent]}")
    for name, arguments in (("a good run", ()), ("a gate that fails", gate), ("two schemes, one past its gate", several),
                            ("a strict run with a warning", strict)):
        events, report, pipeline = run(quantpipe, work, *arguments)
        good += [check(f"events of {name}", "events", events), check(f"report of {name}", "report", [report]),
                 check(f"resolved pipeline of {name}", "pipeline", [pipeline])]
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
