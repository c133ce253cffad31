"""usage: schemes.py [BUILD]                     whether `quantpipe schemes` knows every preset of its peers
       schemes.py --modelopt > modelopt.txt    the constants of modelopt 0.47, where that is installed

llm-compressor's presets are those of the installed compressed-tensors. modelopt's are in modelopt.txt, as the package
would bring 2 GB; where the benchmarks have installed it (tests/bench/prepare.sh), the file is compared with it. BUILD
(default: build) holds bin/quantpipe. Prints one PASS or FAIL line a check.
"""
import json
import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
CONSTANTS = ("_CFG", "_CONFIG")


def modelopt_constants():
    from modelopt.torch.quantization import config
    return sorted(config.choices)


def check(good, text):
    print(f"{'PASS' if good else 'FAIL'} schemes: {text}", flush=True)
    return good


def check_modelopt(known):
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
    python = cache / "quantpipe/bench-modelopt/bin/python"
    if not python.exists():
        print(f"SKIP schemes: modelopt.txt is not compared with modelopt: no {python}", flush=True)
        return True
    run = subprocess.run([python, __file__, "--modelopt"], check=True, capture_output=True, text=True)
    installed = {line for line in run.stdout.split() if line.endswith(CONSTANTS)}
    return check(installed == known, f"modelopt.txt has what is installed; differing: {sorted(installed ^ known) or 0}")


def compare(peer, theirs, ours, absent):
    """Each of their names once: with an equivalent, or with the reason that there is none; no name that they lack."""
    missing = sorted(theirs - ours - absent)
    twice = sorted(ours & absent)
    invented = sorted((ours | absent) - theirs)
    return check(theirs and not missing and not twice and not invented,
                 f"{len(theirs)} presets of {peer}, {len(theirs & absent)} without an equivalent; missing: "
                 f"{missing or 0}, twice: {twice or 0}, unknown there: {invented or 0}")


def main():
    from compressed_tensors.quantization.quant_scheme import PRESET_SCHEMES
    build = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else HERE.parents[1] / "build")
    listed = json.loads(subprocess.run([build / "bin/quantpipe", "schemes", "--json"], check=True,
                                       capture_output=True).stdout)
    ours = {"llm-compressor": set(), "modelopt": set()}
    for scheme in listed["schemes"]:
        ours["llm-compressor"] |= set(scheme["llm_compressor"])
        ours["modelopt"] |= set(scheme["modelopt"]).union(*(method["modelopt"] for method in scheme["methods"]))
    absent = {peer: {name for entry in listed["absent"] if entry["of"] == peer for name in entry["names"]}
              for peer in ours}
    for names in (ours, absent):  # modelopt's recipes have names of their own; the constants are what is compared
        names["modelopt"] = {name for name in names["modelopt"] if name.endswith(CONSTANTS)}
    theirs = {"llm-compressor": set(PRESET_SCHEMES), "modelopt": set((HERE / "modelopt.txt").read_text().split())}
    results = [compare(peer, theirs[peer], ours[peer], absent[peer]) for peer in ours]
    sys.exit(not all([*results, check_modelopt(theirs["modelopt"])]))


if sys.argv[1:] == ["--modelopt"]:
    print("\n".join(modelopt_constants()))
else:
    main()
