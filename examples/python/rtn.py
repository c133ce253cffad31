"""Rounds weights to the nearest integer codes, as the built-in quantize does with `method: rtn, scales: minmax`."""
import numpy as np

from quantpipe_stage import Block, Context, Format, StageError, held_scale, stage


def round_to_nearest(w: np.ndarray, form: Format) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Codes [out, columns], scales and zero points [out, groups] of w[out, columns]."""
    out, columns = w.shape
    group = form.group or columns
    groups = np.pad(w, ((0, 0), (0, -columns % group))).reshape(out, -1, group)
    least, most = np.minimum(groups.min(2), 0), np.maximum(groups.max(2), 0)
    low, high = form.range
    steps = np.float32((high - low) / 2 if form.symmetric else high - low)
    scale = held_scale((np.maximum(-least, most) if form.symmetric else most - least) / steps, form.scale_dtype)
    zero = None if form.symmetric else np.rint(np.clip(np.float32(low) - least / scale, low, high))
    codes = groups / scale[:, :, None] + (np.float32(0) if zero is None else zero[:, :, None])
    return np.rint(np.clip(codes, low, high)).reshape(out, -1)[:, :columns], scale, zero


@stage(name="rtn", summary="rounds integers to nearest", provides=["quantized"])
def rtn(context: Context, block: Block) -> None:
    for linear in block.linears:
        form = block.format(linear)
        if form is None:
            continue
        if not form.bits or form.tensor or form.rows > 1 or (form.activations or {}).get("dynamic") is False:
            raise StageError(f"{linear.name}: {form.name} is none of the formats of this example, which are integers", 3)
        block.set_codes(linear, *round_to_nearest(block.weight(linear), form))


if __name__ == "__main__":
    rtn.main()
