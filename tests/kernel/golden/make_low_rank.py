"""usage: make_low_rank.py > low_rank.h   what NumPy's SVD makes of e H^(1/2), for tests/kernel/low_rank_test.c

H^(1/2) is the symmetric root, and a = Vᵀ H^(-1/2) as LQER and QERA write it: another way to the same optimum.
"""

import numpy as np

ROWS, COLS, RANK = (5, 7), (7, 5), 2  # fewer rows than columns, and more


def line(name, values):
    text = ", ".join(f"{v:.9g}" for v in np.asarray(values).ravel())
    return f"static const float {name}[] = {{{text}}};"


print("/* Made by make_low_rank.py. */\nenum { GOLDEN_RANK = %d };" % RANK)
random = np.random.default_rng(411)
for case, (rows, cols) in enumerate((ROWS, COLS)):
    e = random.normal(size=(rows, cols)).astype(np.float32)
    x = random.normal(size=(40, cols)) @ np.diag(np.linspace(0.3, 3, cols)) + random.normal(size=(40, 1))
    h = (x.T @ x).astype(np.float32)
    values, vectors = np.linalg.eigh(h.astype(np.float64))
    root, inverse = (vectors * values**p @ vectors.T for p in (0.5, -0.5))
    u, s, vt = np.linalg.svd(e.astype(np.float64) @ root)
    ba = (u[:, :RANK] * s[:RANK]) @ vt[:RANK] @ inverse
    rest = e - ba
    assert np.isclose(np.trace(rest @ h @ rest.T), (s[RANK:] ** 2).sum())
    print(f"enum {{ GOLDEN_ROWS_{case} = {rows}, GOLDEN_COLS_{case} = {cols} }};")
    print(line(f"golden_e_{case}", e))
    print(line(f"golden_h_{case}", h))
    print(line(f"golden_ba_{case}", ba))
    print(line(f"golden_loss_{case}", [(s[RANK:] ** 2).sum()]))
