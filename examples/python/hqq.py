"""Quantizes without data in the way of HQQ (Badri and Shaji 2023): scales that lower |w - scale * code|^p, p < 1, by turns of
a shrunken error, which takes the outliers up, and least squares for the rest."""
import numpy as np

from quantpipe_stage import Block, Context, Param, StageError, held_scale, stage


def shrink(x: np.ndarray, beta: float, p: float) -> np.ndarray:
    """What of the errors x counts as outliers (the generalized soft threshold of HQQ, equation 4)."""
    size = np.abs(x)
    return np.sign(x) * np.maximum(size - np.maximum(size, 1e-8) ** (p - 1) / beta, 0)


@stage(name="hqq", summary="fits scales of symmetric integers to most weights, and not to outliers", provides=["quantized"],
       params={"steps": Param("int", 20, "turns", min=1, max=1000), "p": Param("float", 0.7, "power of the error", min=0.1, max=1)})
def hqq(context: Context, block: Block) -> None:
    for linear in block.linears:
        form = block.format(linear)
        if form is None:
            continue
        if not form.bits or not form.symmetric or not form.group or linear.columns % form.group:
            raise StageError(f"{linear.name}: expected symmetric integers in whole groups, such as int4", 3)
        w = block.weight(linear).reshape(linear.out, -1, form.group)
        size = np.abs(w).mean()
        scale, beta = np.abs(w).max(2, keepdims=True) / (form.range[1] + 0.5), 10.0 / size**2
        for _ in range(context.params.steps):
            codes = np.clip(np.rint(w / np.maximum(scale, 1e-8)), *form.range)
            rest = w - shrink(w - scale * codes, beta, context.params.p)
            square = (codes * codes).sum(2, keepdims=True)
            scale = np.where(square > 0, (rest * codes).sum(2, keepdims=True) / np.maximum(square, 1), scale)
            beta *= 1.05
        held = held_scale(np.maximum(scale, 1e-8).astype(np.float32)[:, :, 0], form.scale_dtype)
        codes = np.clip(np.rint(w / held[:, :, None]), *form.range)
        block.set_codes(linear, codes.reshape(linear.out, -1), held)


if __name__ == "__main__":
    hqq.main()
