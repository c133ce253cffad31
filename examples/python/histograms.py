"""A tap: draws how often each code occurs in a layer, one PNG a layer, and passes everything on."""
import pathlib
import struct
import zlib

import numpy as np

from quantpipe_stage import Block, Context, Param, stage

HEIGHT, WIDTH = 120, 6  # of the picture, and of a bar, in pixels


def write_png(path: pathlib.Path, pixels: np.ndarray) -> None:
    """Gray pixels [rows, columns] of a byte (PNG, ISO/IEC 15948)."""
    rows, columns = pixels.shape
    lines = b"".join(b"\0" + row.tobytes() for row in pixels.astype(np.uint8))
    parts = ((b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts))


@stage(name="histograms", summary="draws how often each code occurs", needs=["quantized"],
       params={"folder": Param("string", None, "where the pictures go; default the stage's own folder in the run folder")})
def histograms(context: Context, block: Block) -> None:
    counts = np.zeros(256, np.int64)
    for linear in block.linears:
        codes = block.unit.tensors.get(f"{linear.name}.weight_codes")
        if codes is not None and codes.dtype == "I8":
            counts += np.bincount(codes.array.reshape(-1).astype(np.int64) + 128, minlength=256)
    used = np.flatnonzero(counts)
    if len(used) == 0:
        return
    bars = counts[used[0]:used[-1] + 1] * HEIGHT // counts.max()
    rows = np.arange(HEIGHT, 0, -1)[:, None]
    folder = pathlib.Path(context.params.folder or context.scratch)
    folder.mkdir(parents=True, exist_ok=True)
    write_png(folder / f"layer-{block.layer}.png", np.where(rows <= np.repeat(bars, WIDTH)[None, :], 40, 255))


if __name__ == "__main__":
    histograms.main()
