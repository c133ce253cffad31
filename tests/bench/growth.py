"""usage: growth.py [--seconds N] [--table] [RUN.run ...]

How time and memory of a GPTQ run grow with the model and with the text: INT4 in groups of 128, load to export, models of
random weights (bench_synthetic) of which some have a few layers only, windows of 512 tokens. Each job is run once and
kept in build/bench/growth; a call ends after about N seconds (900), and the next one goes on. --table runs nothing.
Then it fits

    CPU seconds = a + b tokens weights + c weights + d sum of out in^2     over all linears [out, in]

by least squares of relative errors, and prints jobs, fit, a curve, and what the fit says of whole models and of the run
folders given (RUN.run), which are not among the jobs.
"""
import itertools
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORK = pathlib.Path(os.environ.get("GROWTH", ROOT / "build/bench/growth"))
QUANTPIPE = os.environ.get("QUANTPIPE", ROOT / "build/bin/quantpipe")
MEASURE = ROOT / "tests/bench/speed/measure.py"
LENGTH, GIB, CORES = 512, 1 << 30, len(os.sched_getaffinity(0))
WINDOWS = 8, 32, 128
LAYERS = {"0.1B": 9, "0.3B": 8, "1B": 3, "3B": 2}  # of 9, 16, 22, 26
JOBS = [(size, windows) for windows in WINDOWS for size in LAYERS]
WHOLE = {"0.1B": 9, "0.3B": 16, "1B": 22, "3B": 26, "8B": 32, "70B": 80}
SHAPES = {  # hidden, feed-forward, rows of k and v
    "0.1B": (768, 2048, 256), "0.3B": (1024, 2816, 256), "1B": (2048, 5632, 256), "3B": (3072, 8192, 1024),
    "8B": (4096, 14336, 1024), "70B": (8192, 28672, 1024)}
TERMS = ("start", "per token and weight", "per weight", "per out in^2")


def linears(hidden, ffn, kv):
    return [(hidden, hidden), (kv, hidden), (kv, hidden), (hidden, hidden), (ffn, hidden), (ffn, hidden), (hidden, ffn)]


def terms(shape, layers, windows):
    """What the four coefficients are multiplied with."""
    weights = layers * sum(rows * cols for rows, cols in linears(*shape))
    cubes = layers * sum(rows * cols**2 for rows, cols in linears(*shape))
    return 1, windows * LENGTH * weights, weights, cubes


# ---- jobs ----


def make_model(size):
    folder = WORK / f"model-{size}"
    if not (folder / "model.safetensors").exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([ROOT / "build/tests/bench_synthetic", folder, size, str(LAYERS[size])], check=True,
                       stdout=subprocess.DEVNULL)
    return folder


def arguments(command, size, windows):
    data = f"data.calibration={{synthetic: true, samples: {windows}, length: {LENGTH}}}"
    changes = ["scheme={weights: {format: int4, group: 128}}", data]
    return [str(QUANTPIPE), command, str(ROOT / "tests/bench/speed/pipeline.yaml"), "--output", str(WORK / "out"),
            *(word for change in changes for word in ("--set", change))]


def clear():
    for folder in (WORK / "out", WORK / "out.run"):
        shutil.rmtree(folder, ignore_errors=True)


def run_job(size, windows):
    environment = {**os.environ, "BENCH_MODEL": str(make_model(size)), "CALIBRATION_TEXT": ""}
    clear()
    plan = json.loads(subprocess.run([*arguments("plan", size, windows), "--json"], env=environment, check=True,
                                     capture_output=True, text=True).stdout)
    subprocess.run([sys.executable, MEASURE, WORK / "measured.json", "--", *arguments("run", size, windows),
                    "--progress", "none"], env=environment, check=True, stdout=subprocess.DEVNULL)
    measured = json.loads((WORK / "measured.json").read_text())
    report = json.loads((WORK / "out.run/report.json").read_text())
    measured.update(size=size, windows=windows, planned_bytes=plan["memory_estimate_bytes"],
                    share_of_roofline=report["share_of_roofline"],
                    stages={stage["name"]: stage["cpu_seconds"] for stage in report["stages"]})
    (WORK / f"{size}-{windows}.json").write_text(json.dumps(measured) + "\n")
    clear()


def known():
    found = [WORK / f"{size}-{windows}.json" for size, windows in JOBS]
    return [json.loads(path.read_text()) for path in found if path.exists()]


def run_jobs(seconds):
    started, slowest = time.monotonic(), 0.0
    for size, windows in JOBS:
        if (WORK / f"{size}-{windows}.json").exists():
            continue
        begun = time.monotonic()
        if begun - started + 1.5 * slowest > seconds:
            print(f"{size} with {windows} windows and what follows are left for another call", file=sys.stderr)
            return
        run_job(size, windows)
        slowest = max(slowest, time.monotonic() - begun)


# ---- the fit ----


def solve(matrix, right):
    """Gauss with pivots; None for a singular matrix."""
    rows = [row[:] + [value] for row, value in zip(matrix, right)]
    for at in range(len(rows)):
        pivot = max(range(at, len(rows)), key=lambda i: abs(rows[i][at]))
        rows[at], rows[pivot] = rows[pivot], rows[at]
        if abs(rows[at][at]) < 1e-12:
            return None
        for i in range(len(rows)):
            if i != at:
                share = rows[i][at] / rows[at][at]
                rows[i] = [x - share * y for x, y in zip(rows[i], rows[at])]
    return [row[-1] / row[i] for i, row in enumerate(rows)]


def fit(points):
    """Coefficients, none below 0, with the least sum of squared relative errors; points: (terms, seconds)."""
    size = len(TERMS)
    scale = [max(x[k] for x, _ in points) for k in range(size)]
    best = (float("inf"), [0.0] * size)
    for used in itertools.chain.from_iterable(itertools.combinations(range(size), n) for n in range(1, size + 1)):
        rows = [[x[k] / scale[k] / y for k in used] for x, y in points]
        normal = [[sum(row[i] * row[j] for row in rows) for j in range(len(used))] for i in range(len(used))]
        found = solve(normal, [sum(row[i] for row in rows) for i in range(len(used))])
        if found is None or min(found) < 0:
            continue
        error = sum((sum(c * v for c, v in zip(found, row)) - 1) ** 2 for row in rows)
        values = [0.0] * size
        for k, value in zip(used, found):
            values[k] = value / scale[k]
        best = min(best, (error, values))
    return best[1]


def say(coefficients, x):
    return sum(c * v for c, v in zip(coefficients, x))


# ---- what is printed ----


def cost_of(job):
    return terms(SHAPES[job["size"]], LAYERS[job["size"]], job["windows"])


def print_jobs(jobs, coefficients):
    print("| model | layers | windows | wall s | CPU s | calibrate | quantize | fit | planned GiB | measured GiB "
          "| of the roofline | others' CPU |\n" + "| --- " * 12 + "|")
    for job in jobs:
        share, wall = job["share_of_roofline"], job["wall_seconds"]
        print(f"| {job['size']} | {LAYERS[job['size']]} of {WHOLE[job['size']]} | {job['windows']} | {wall:.1f} "
              f"| {job['cpu_seconds']:.1f} | {job['stages']['calibrate']:.1f} | {job['stages']['quantize']:.1f} "
              f"| {say(coefficients, cost_of(job)):.1f} | {job['planned_bytes'] / GIB:.2f} "
              f"| {job['peak_anonymous_bytes'] / GIB:.2f} | {'' if share is None else f'{share:.0%}'} "
              f"| {job['foreign_cpu_seconds'] / wall / CORES:.0%} |")


def print_fit(jobs, coefficients):
    print("\nCPU seconds = " + " + ".join(f"{c:.3g} {name}" for c, name in zip(coefficients, TERMS) if c))
    off = [say(coefficients, cost_of(job)) / job["cpu_seconds"] - 1 for job in jobs]
    print(f"The fit is {min(off):+.0%} to {max(off):+.0%} off.")


def print_curve(jobs, coefficients):
    """A line a job: CPU seconds on a logarithmic scale from 1 to 1000, measured (o) and by the fit (x)."""
    print(f"\n{'':16}1 s{'':17}10 s{'':16}100 s{'':15}1000 s")
    for job in sorted(jobs, key=lambda job: job["cpu_seconds"]):
        line = [" "] * 64
        for value, mark in ((say(coefficients, cost_of(job)), "x"), (job["cpu_seconds"], "o")):
            line[min(63, max(0, round(20 * math.log10(max(value, 1)))))] = mark
        print(f"{job['size']:>5} x {job['windows']:<7}|" + "".join(line).rstrip())


def print_whole(jobs, coefficients):
    busy = sorted(job["cpu_seconds"] / job["wall_seconds"] for job in jobs)[len(jobs) // 2]
    print(f"\n| whole model | layers | windows | CPU s by the fit | minutes, of {busy:.2f} cores busy |\n"
          "| --- | --- | --- | --- | --- |")
    for size, windows in itertools.product(WHOLE, WINDOWS):
        seconds = say(coefficients, terms(SHAPES[size], WHOLE[size], windows))
        print(f"| {size} | {WHOLE[size]} | {windows} | {seconds:.0f} | {seconds / busy / 60:.1f} |")


def print_check(folders, coefficients):
    print("\n| run | layers | windows | CPU s | by the fit |\n| --- | --- | --- | --- | --- |")
    for folder in map(pathlib.Path, folders):
        if not (folder / "report.json").exists():
            sys.exit(f"growth.py: {folder}: has no report.json; expected the run folder of a run that ended well")
        report, pipeline = (json.loads((folder / name).read_text()) for name in ("report.json", "pipeline.json"))
        config = json.loads((pathlib.Path(report["model"]["path"]) / "config.json").read_text())
        head = config["hidden_size"] // config["num_attention_heads"]
        shape = config["hidden_size"], config["intermediate_size"], config["num_key_value_heads"] * head
        layers, data = config["num_hidden_layers"], pipeline["data"]["calibration"]
        fitted = say(coefficients, terms(shape, layers, data["samples"] * data["length"] / LENGTH))
        seconds = sum(stage["cpu_seconds"] for stage in report["stages"])
        print(f"| {folder.name} | {layers} | {data['samples']} x {data['length']} | {seconds:.0f} | {fitted:.0f} |")


def main():
    given, seconds, folders = sys.argv[1:], 900.0, []
    while given:
        word = given.pop(0)
        if word in ("-h", "--help"):
            sys.exit(__doc__)
        if word == "--seconds" and given:
            seconds = float(given.pop(0))
        elif word == "--table":
            seconds = 0.0
        else:
            folders.append(word)
    WORK.mkdir(parents=True, exist_ok=True)
    if seconds > 0:
        run_jobs(seconds)
    jobs = known()
    if len(jobs) < len(TERMS):
        sys.exit(f"growth.py: {len(jobs)} of {len(JOBS)} jobs are there, which is too few for a fit")
    coefficients = fit([(cost_of(job), job["cpu_seconds"]) for job in jobs])
    print_jobs(jobs, coefficients)
    print_fit(jobs, coefficients)
    print_curve(jobs, coefficients)
    print_whole(jobs, coefficients)
    if folders:
        print_check(folders, coefficients)
    return 0


if __name__ == "__main__":
    sys.exit(main())
