"""Makes ranges.json: a matrix of activations, and what two calibrators take from it.

average: llm-compressor 0.14's observer `minmax` (observers/min_max.py), a window of four tokens at a time. headroom:
modelopt 0.47's nvfp4_act_headroom (calib/nvfp4_act_headroom.py). Written with numpy from their descriptions.

    python tests/unit/golden/ranges.py > tests/unit/golden/ranges.json
"""

import json

import numpy as np

ROWS, COLUMNS, WINDOW = 24, 40, 4
rng = np.random.default_rng(11)


def numbers():
    """Skewed, with outliers, blocks of zeros, and blocks that are next to nothing; float32 of five digits."""
    x = rng.normal(size=(ROWS, COLUMNS)) * np.exp2(rng.uniform(-3, 3, size=(ROWS, 1))) + 0.01
    x[rng.random(x.shape) < 0.01] *= 50
    x[:, 16:32] *= 0.3
    x[3, :16], x[4, 16:], x[5, :] = 0.0, 1e-9, 0.0
    return np.array([float(f"{v:.5g}") for v in x.ravel()], dtype=np.float32).reshape(x.shape)


def average(x):
    least = most = None
    for window in x.astype(np.float64).reshape(-1, WINDOW, COLUMNS):
        low, high = window.min(), window.max()
        least = low if least is None else 0.99 * least + 0.01 * low
        most = high if most is None else 0.99 * most + 0.01 * high
    return max(-least, most, 0.0)


def headroom(x, rho):
    padded = np.pad(np.abs(x), ((0, 0), (0, -COLUMNS % 16)))
    blocks = padded.reshape(ROWS, -1, 16).max(axis=2).ravel()
    logs = np.log2(blocks[blocks > 0])
    edges = np.linspace(-40, 40, 513)
    counts = np.histogram(np.clip(logs, -40, 40), edges)[0]
    centres = 2.0 ** ((edges[1:] + edges[:-1]) / 2)

    def percentile(kept, share):
        return centres[np.argmax(np.cumsum(kept) >= share * kept.sum())]

    high = percentile(counts, 0.9999)
    low = percentile(np.where(np.arange(512) >= np.searchsorted(edges, np.log2(high / 1e6), "right") - 1, counts, 0), 0.01)
    return max(rho * low, high)


x = numbers()
print(json.dumps({"x": [float(f"{v:.5g}") for v in x.ravel()], "average": average(x),
                  "headroom": [[rho, headroom(x, rho)] for rho in (1, 1000, 16384)]}, separators=(",", ":")))
