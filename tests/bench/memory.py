"""usage: memory.py [SIZE] [PIPELINE...]

Holds `quantpipe plan` to what runs take: for six pipelines on a model of random weights (bench_synthetic; 0.3B by default)
each stage's peak of memory as planned and as report.json has it. Exits with 1 where the two are more than 15 % and 4 MiB
apart. Stages look at their memory fifty times a second, so that of a small model (0.1B) short peaks are missed.
  QUANTPIPE=build/bin/quantpipe SAMPLES=4 LENGTH=512 memory.py 0.3B gptq
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORK = ROOT / "build/bench/memory"
QUANTPIPE = os.environ.get("QUANTPIPE", ROOT / "build/bin/quantpipe")
SAMPLES, LENGTH = int(os.environ.get("SAMPLES", 4)), int(os.environ.get("LENGTH", 512))
SHARE, LEAST = 0.15, 4 << 20  # how far apart a plan and its run may be
MIB = 1 << 20


def stages(smooth="none", search="none", quantize="rtn"):
    methods = {"smooth": smooth, "search": search, "quantize": quantize}
    return [argument for name, method in methods.items() for argument in ("--set", f"stages.{name}.with.method={method}")]


PIPELINES = {
    "rtn": ["--scheme", "int4", *stages()],
    "gptq": ["--scheme", "int4", *stages(quantize="gptq")],
    "awq+gptq": ["--scheme", "int4", *stages(search="awq", quantize="gptq")],
    "smoothquant-w8a8": ["--scheme", "int8", *stages(smooth="smoothquant")],
    "fp8": ["--scheme", "fp8-dynamic", *stages()],
    "true-sequential": ["--scheme", "int4", "--profile", "true_sequential", *stages(quantize="gptq")],
}


def make_model(size):
    folder = WORK / f"model-{size}"
    if not (folder / "config.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([ROOT / "build/tests/bench_synthetic", folder, size], check=True, stdout=subprocess.DEVNULL)
    return folder


def quantpipe(command, model, *arguments):
    data = [f"data.{entry}={{synthetic: true, samples: {samples}, length: {LENGTH}}}"
            for entry, samples in (("calibration", SAMPLES), ("evaluation", max(1, SAMPLES // 2)))]
    done = subprocess.run([QUANTPIPE, command, ROOT / "pipeline.yaml", "--model", model, "--output", WORK / "out",
                           *(word for entry in data for word in ("--set", entry)), *arguments],
                          capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"quantpipe {command}: {done.stderr or done.stdout}")
    return done.stdout


def clear():
    for folder in (WORK / "out", WORK / "out.run"):
        shutil.rmtree(folder, ignore_errors=True)


def compare(name, model):
    """Prints a row a stage; how many are too far apart."""
    clear()
    plan = json.loads(quantpipe("plan", model, "--json", *PIPELINES[name]))
    quantpipe("run", model, "--progress", "none", *PIPELINES[name])
    report = json.loads((WORK / "out.run/report.json").read_text())
    apart = 0
    for planned, took in zip(plan["stages"], report["stages"]):
        assert planned["name"] == took["name"]
        ours, theirs = planned["memory_estimate_bytes"], took["peak_anonymous_bytes"]
        far = ours is None or abs(ours - theirs) > max(SHARE * theirs, LEAST)
        apart += far
        ratio = "" if ours is None else f"{ours / theirs:.2f}"
        print(f"| {name} | {took['name']} | {(ours or 0) / MIB:.1f} | {theirs / MIB:.1f} | {ratio}{' !' if far else ''} |",
              flush=True)
    clear()
    return apart


def main():
    given = sys.argv[1:]
    if given[:1] in (["-h"], ["--help"]):
        sys.exit(__doc__)
    size = given.pop(0) if given and given[0] not in PIPELINES else "0.3B"
    unknown = [name for name in given if name not in PIPELINES]
    if unknown:
        sys.exit(f"memory.py: {unknown[0]}: expected one of {', '.join(PIPELINES)}")
    model = make_model(size)
    print("| pipeline | stage | planned MiB | measured MiB | ratio |\n| --- | --- | --- | --- | --- |")
    apart = sum(compare(name, model) for name in given or PIPELINES)
    print(f"\n{apart} stages are more than {SHARE:.0%} and {LEAST // MIB} MiB apart", file=sys.stderr)
    return apart > 0


if __name__ == "__main__":
    sys.exit(main())
