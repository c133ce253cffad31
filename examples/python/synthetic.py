"""Takes calibrate's place where there is no text: statistics of inputs that are assumed to be normal, as wide as the gains
of the norms before them make them."""
import numpy as np

from quantpipe_stage import Block, Context, Param, stage


def gain_of(block: Block, norm: str | None) -> np.ndarray | None:
    tensor = block.unit.tensors.get(f"{block.name}.{norm}.weight")
    return None if tensor is None else np.abs(tensor.float32)


@stage(name="synthetic", summary="statistics of assumed inputs", provides=["statistics"],
       params={"tokens": Param("int", 4096, "how many are assumed", min=1, max=1e9)},
       collects=["hessian", "absmax", "absmean", "min", "max"])
def synthetic(context: Context, block: Block) -> None:
    tokens = context.params.tokens
    for site in block.sites.values():
        gain = gain_of(block, site.fold.norm if site.fold else None)
        gain = np.ones(site.columns, np.float32) if gain is None else gain
        most = gain * np.sqrt(2 * np.log(tokens))  # of so many normal numbers
        values = {"hessian": (np.diag(tokens * gain**2))[np.triu_indices(site.columns)], "absmax": most,
                  "absmean": gain * np.sqrt(2 / np.pi), "min": -most, "max": most}
        for word, value in values.items():
            if context.wants(word):
                block.set_statistic(site, word, value)
    block.unit.attrs["tokens"] = tokens


if __name__ == "__main__":
    synthetic.main()
