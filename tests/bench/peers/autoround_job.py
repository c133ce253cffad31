"""auto-round, see job.py."""

import job
import torch
from auto_round import AutoRound

RECIPES = {
    "int4-rtn-plain": {"iters": 0, "disable_opt_rtn": True},
    "int4-rtn": {"iters": 0},  # its "optimised" rounding: scales weighted by the mean squares of the inputs
    "int4-signround": {"iters": 200},
}


def main():
    args = job.arguments(RECIPES)
    options = dict(RECIPES[args.recipe])
    if "disable_opt_rtn" not in options:
        rows = [torch.tensor([row]) for row in job.windows(args)]
        options.update(dataset=rows, nsamples=args.samples, seqlen=args.length)
    rounder = AutoRound(str(args.model), bits=4, group_size=args.group, sym=True, device_map="cpu", **options)
    rounder.quantize_and_save(str(args.output), format="auto_round")
    if not (args.output / "config.json").exists():  # 0.16 makes a folder of its own inside, named by model and format
        (inside,) = args.output.iterdir()
        for path in inside.iterdir():
            path.rename(args.output / path.name)
        inside.rmdir()


if __name__ == "__main__":
    main()
