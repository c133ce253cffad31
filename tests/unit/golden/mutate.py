"""Undoes the facts of families' tables one at a time: does tests/unit/families_test.c notice?

usage: mutate.py [--build "COMMAND {file}"] [--program BUILD/tests/unit_families_test] [FAMILY_FILE...]

Each field in libstage/network/families/*.c is set to nothing (it then has what Llama does without it), the test's
program is built again, and the test has to fail. Prints a line for each and the count; exit 1
when one was not noticed. Fields that this test does not see are left out: names, and what is of GGUF.
"""
import argparse
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[3]
ELSEWHERE = {"name", "class_name", "gguf", "permuted", "gguf_wide_layers"}
FIELD = re.compile(r"\.(\w+) = (\{[^{}]*\}|[^,{}\\\n]+)")


def notices(arguments, path):
    built = subprocess.run(arguments.build.format(file=path), shell=True, cwd=ROOT, capture_output=True, text=True)
    if built.returncode:
        sys.exit(f"{path}: the build failed: {(built.stdout + built.stderr).strip()[-400:]}")
    test = subprocess.run([arguments.program], cwd=ROOT, capture_output=True, text=True)
    return test.returncode != 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="cmake --build build --target unit_families_test")
    parser.add_argument("--program", default=str(ROOT / "build/tests/unit_families_test"))
    parser.add_argument("files", nargs="*", type=pathlib.Path)
    arguments = parser.parse_args()
    noticed = missed = 0
    for path in [f.resolve() for f in arguments.files] or sorted((ROOT / "libstage/network/families").glob("*.c")):
        if notices(arguments, path):
            sys.exit(f"{arguments.program} fails as it is")
        original = path.read_text()
        try:
            for field in FIELD.finditer(original):
                if field[1] in ELSEWHERE:
                    continue
                path.write_text(original[:field.start(2)] + "{0}" + original[field.end(2):])
                seen = notices(arguments, path)
                noticed += seen
                missed += not seen
                line = original.count("\n", 0, field.start()) + 1
                print(f"{path.name}:{line} {field[0]} {'noticed' if seen else 'NOT NOTICED'}", flush=True)
        finally:
            path.write_text(original)
            notices(arguments, path)  # the program as it was
    print(f"{noticed} noticed, {missed} not")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
