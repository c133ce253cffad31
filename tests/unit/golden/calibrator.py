"""Makes calibrator.json: histograms of heavy-tailed numbers, and the ranges that calibrators take from them.

Written from the descriptions of the algorithms (pytorch-quantization's calib/histogram.py), with other means than the C
code: the histogram by interpolating a cumulative distribution, percentiles by inverting it, entropy by numpy's digitize.

    python tests/unit/golden/calibrator.py > tests/unit/golden/calibrator.json
"""

import json

import numpy as np
import torch

BINS, START, LOG_BINS = 2048, 128, 512
rng = np.random.default_rng(7)


def numbers():
    """Three channels: of normal numbers, of a few outliers, of Laplacian ones; float32."""
    x = rng.normal(size=(6000, 3))
    x[:, 1] = x[:, 1] * 0.3 + (rng.random(6000) < 0.002) * rng.normal(size=6000) * 40
    x[:, 2] = rng.laplace(size=6000) * 0.01
    x[:5, 0] = 0.0
    return np.abs(x.astype(np.float32))


def log_counts(channel):
    with np.errstate(divide="ignore"):
        bins = np.clip(np.floor(16 * np.log2(channel.astype(np.float64))) + 320, 0, LOG_BINS - 1)
    return np.bincount(bins.astype(int), minlength=LOG_BINS)


def linear_histogram(counts, folds, absmax):
    """Each channel's mass below each linear edge, by interpolation of its own cumulative distribution."""
    edges = np.linspace(0.0, absmax.max(), BINS + 1)
    below = np.zeros(BINS + 1)
    for row, fold, top in zip(counts, folds, absmax):
        used = np.nonzero(row)[0][-1] + 1
        limits = 2.0 ** ((np.arange(used + 1) - 320) / 16) / fold
        limits[0], limits[used] = 0.0, top
        below += np.interp(edges, limits, np.concatenate([[0], np.cumsum(row[:used])]))
    return np.diff(below), edges


def percentile(bins, edges, percent):
    cdf = np.concatenate([[0.0], np.cumsum(bins)])
    target = cdf[-1] * percent / 100
    k = np.searchsorted(cdf, target, side="left")
    if k == 0:
        return 0.0
    return edges[k - 1] + (edges[k] - edges[k - 1]) * (target - cdf[k - 1]) / (cdf[k] - cdf[k - 1])


def quantized(x, amax, kind):
    x = x.astype(np.float32)
    if kind == "fp8":
        scale = np.float32(amax) / np.float32(448)
        t = torch.from_numpy(np.clip(x / scale, -448, 448).astype(np.float32))
        return t.to(torch.float8_e4m3fn).to(torch.float32).numpy() * scale
    top = np.float32(2 ** (int(kind[3:]) - 1))
    scale = np.float32(amax) / (top - np.float32(0.5))
    return np.rint(np.clip(x / scale, -top, top - 1)) * scale


def mse(bins, edges, kind, norm):
    centres = ((edges[1:] + edges[:-1]) / 2).astype(np.float32)
    errors = [np.sum(bins * np.abs(quantized(centres, edges[i], kind).astype(np.float64) - centres) ** norm)
              for i in range(START, BINS + 1)]
    return edges[START + int(np.argmin(errors))]


def divergence(bins, count, parts):
    new = np.zeros(count)
    for part in np.unique(parts):
        members = (parts == part) & (bins[:count] > 0)
        if members.any():
            new[members] = bins[:count][members].sum() / members.sum()
    reference = bins[:count].copy()
    reference[-1] += bins[count:].sum()
    p, q = reference / reference.sum(), new / new.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sum(np.where(p > 0, p * np.log(p / q), 0.0))


def entropy(bins, edges, kind):
    bins = bins.copy()
    bins[0] = bins[1]
    centres = ((edges[1:] + edges[:-1]) / 2).astype(np.float32)
    results = []
    for i in range(START, BINS + 1):
        if kind == "fp8":
            parts = np.unique(quantized(centres[:i], edges[i], kind), return_inverse=True)[1]
        else:
            parts = np.digitize(np.arange(i), np.linspace(0, i, 2 ** (int(kind[3:]) - 1) + 1)) - 1
        results.append(divergence(bins, i, parts))
    last = len(results) - 1 - int(np.argmin(results[::-1]))
    return edges[START + last]


def case(x, folds):
    counts = np.stack([log_counts(c) for c in x.T])
    absmax = x.max(axis=0).astype(np.float64) / folds
    absmax = absmax.astype(np.float32).astype(np.float64)
    bins, edges = linear_histogram(counts, folds, absmax)
    sparse = [[int(c), int(b), int(counts[c, b])] for c, b in zip(*np.nonzero(counts))]
    every = np.sort((x / folds).ravel())
    return {
        "folds": folds.tolist(), "absmax": absmax.tolist(), "counts": sparse,
        "percentile": [[p, percentile(bins, edges, p)] for p in (50, 99, 99.9, 99.99, 99.999)],
        "sorted": [[p, float(every[int(np.ceil(len(every) * p / 100)) - 1])] for p in (50, 99, 99.9)],
        "entropy": {kind: entropy(bins, edges, kind) for kind in ("int8", "int4", "fp8")},
        "mse": [[kind, norm, mse(bins, edges, kind, norm)]
                for kind in ("int8", "int4", "fp8") for norm in (2.0, 2.4)],
    }


x = numbers()
print(json.dumps([case(x, np.ones(3)), case(x, np.array([0.5, 1.75, 0.0078125]))], separators=(",", ":")))
