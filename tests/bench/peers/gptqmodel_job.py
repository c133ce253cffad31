"""GPTQModel, see job.py."""

import os

# 7.6.0 takes half of the cores, rounded up, for its pool, and refuses to start where that is fewer than 2.
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", str(max(2, os.cpu_count())))

import job
from gptqmodel import GPTQModel, QuantizeConfig

RECIPES = {
    "int4-gptq": {"desc_act": False},  # with activation-aware order inside the groups, its default
    "int4-gptq-desc": {"desc_act": True},
}


def main():
    args = job.arguments(RECIPES)
    config = QuantizeConfig(bits=4, group_size=args.group, sym=True, device="cpu", **RECIPES[args.recipe])
    model = GPTQModel.load(str(args.model), config)
    rows = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in job.windows(args)]
    model.quantize(rows, batch_size=1)
    model.save(str(args.output))


if __name__ == "__main__":
    main()
