"""Undoes the facts of families' tables one at a time: do the tests of families notice?

usage: mutate.py [--build "COMMAND {file}"] [--program PROGRAM]... [FAMILY_FILE...]

Each field in libstage/network/families/*.c is set to nothing (it then has what Llama does without it), the tests'
programs (those of families_test.c, and of forward_test.c and checkpoint_test.c for what is of GGUF) are built again,
and one has to fail. Prints a line for each and the count; exit 1 when one was not noticed.
"""
import argparse
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[3]
TESTS = ["unit_families_test", "unit_forward_test", "unit_checkpoint_test"]
FIELD = re.compile(r"\.(\w+) = (\{[^{}]*\}|[^,{}\\\n]+)")


def notices(arguments, path):
    built = subprocess.run(arguments.build.format(file=path), shell=True, cwd=ROOT, capture_output=True, text=True)
    if built.returncode:
        sys.exit(f"{path}: the build failed: {(built.stdout + built.stderr).strip()[-400:]}")
    return any(subprocess.run([program], cwd=ROOT, capture_output=True).returncode for program in arguments.program)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=f"cmake --build build --target {' '.join(TESTS)}")
    parser.add_argument("--program", action="append")
    parser.add_argument("files", nargs="*", type=pathlib.Path)
    arguments = parser.parse_args()
    arguments.program = arguments.program or [str(ROOT / "build/tests" / name) for name in TESTS]
    noticed = missed = 0
    for path in [f.resolve() for f in arguments.files] or sorted((ROOT / "libstage/network/families").glob("*.c")):
        if notices(arguments, path):
            sys.exit(f"{arguments.program} fail as they are")
        original = path.read_text()
        try:
            for field in FIELD.finditer(original):
                path.write_text(original[:field.start(2)] + "{0}" + original[field.end(2):])
                seen = notices(arguments, path)
                noticed += seen
                missed += not seen
                line = original.count("\n", 0, field.start()) + 1
                print(f"{path.name}:{line} {' '.join(field[0].split())} {'noticed' if seen else 'NOT NOTICED'}", flush=True)
        finally:
            path.write_text(original)
            notices(arguments, path)  # the program as it was
    print(f"{noticed} noticed, {missed} not")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
