"""usage: make_network.py | clang-format > network.h   operations of networks by Python's math module

For tests/kernel/{attention,elementwise,gated,norm,rope}_test.c. Straight from the formulas of the headers, one number at a time.
"""

import math
import random

random.seed(411)


def line(name, values):
    print(f"static const float {name}[] = {{{', '.join(f'{v:.9g}' for v in values)}}};")


def numbers(count, most):  # that float32 has exactly
    return [random.randint(-64 * most, 64 * most) / 64 for _ in range(count)]


LENGTH, HEADS, KV_HEADS, DIM, WINDOW, CAP, SCALE = 7, 4, 2, 3, 3, 1.5, 0.75


def attention(q, k, v, window, cap):
    out = []
    for i in range(LENGTH):
        for head in range(HEADS):
            kv = head // (HEADS // KV_HEADS)
            seen = [j for j in range(i + 1) if not window or j > i - window]
            scores = []
            for j in seen:
                s = SCALE * sum(q[(i * HEADS + head) * DIM + d] * k[(j * KV_HEADS + kv) * DIM + d] for d in range(DIM))
                scores.append(cap * math.tanh(s / cap) if cap else s)
            weights = [math.exp(s) for s in scores]
            out += [sum(w * v[(j * KV_HEADS + kv) * DIM + d] for w, j in zip(weights, seen)) / sum(weights)
                    for d in range(DIM)]
    return out


print("/* Made by make_network.py. */")
print(f"enum {{ ATTENTION_LENGTH = {LENGTH}, ATTENTION_HEADS = {HEADS}, ATTENTION_KV_HEADS = {KV_HEADS} }};")
print(f"enum {{ ATTENTION_DIM = {DIM}, ATTENTION_WINDOW = {WINDOW} }};")
print(f"static const float attention_cap = {CAP}f, attention_scale = {SCALE}f;")
q, k, v = numbers(LENGTH * HEADS * DIM, 3), numbers(LENGTH * KV_HEADS * DIM, 3), numbers(LENGTH * KV_HEADS * DIM, 2)
line("attention_q", q)
line("attention_k", k)
line("attention_v", v)
for name, window, cap in (("both", WINDOW, CAP), ("window_alone", WINDOW, 0), ("cap_alone", 0, CAP), ("neither", 0, 0)):
    line(f"attention_{name}", attention(q, k, v, window, cap))

acts = {
    "silu": lambda x: x / (1 + math.exp(-x)),
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "relu": lambda x: max(x, 0),
    "relu2": lambda x: max(x, 0) ** 2,
    "xielu": lambda x: 0.75 * x * x + 0.5 * x if x > 0 else 1.25 * (math.expm1(min(x, -0.0625)) - x) + 0.5 * x,
}
gate = [-6, -3, -2, -1.25, -1, -0.5, -0.125, 0, 0.25, 0.5, 1, 1.75, 2.5, 4, 8]
up = numbers(len(gate), 2)
line("act_gate", gate)
line("act_up", up)
for name, act in acts.items():
    line(f"act_{name}", [act(g) for g in gate])

cap_of, capped = 2.5, [-40, -7, -2.5, -1, -0.375, -0.0625, 0, 0.03125, 0.5, 1.5625, 1.59375, 3, 100]
print(f"static const float cap_of = {cap_of}f;")
line("cap_x", capped)
line("cap_y", [cap_of * math.tanh(x / cap_of) for x in capped])

ROWS, COLS, EPS = 2, 5, 0.125
x, gain, bias = numbers(ROWS * COLS, 3), numbers(COLS, 2), numbers(COLS, 2)
normed = []
for r in range(ROWS):
    row = x[r * COLS:(r + 1) * COLS]
    mean = sum(row) / COLS
    variance = sum((n - mean) ** 2 for n in row) / COLS
    normed += [(n - mean) / math.sqrt(variance + EPS) * g for n, g in zip(row, gain)]
print(f"enum {{ NORM_ROWS = {ROWS}, NORM_COLS = {COLS} }};")
print(f"static const float norm_eps = {EPS}f;")
line("norm_x", x)
line("norm_gain", gain)
line("norm_bias", bias)
line("norm_y", normed)
line("norm_y_biased", [n + bias[i % COLS] for i, n in enumerate(normed)])

TOKENS, DIM, ROTARY = 3, 6, 4
x, cos, sin = numbers(TOKENS * DIM, 2), [], []
for t in range(TOKENS):
    for i in range(ROTARY // 2):
        cos.append(math.cos(t / 10 ** (2 * i / ROTARY)))
        sin.append(math.sin(t / 10 ** (2 * i / ROTARY)))


def rotated(pairs):
    y = list(x)
    for t in range(TOKENS):
        for i in range(ROTARY // 2):
            a, b = (2 * i, 2 * i + 1) if pairs else (i, i + ROTARY // 2)
            z = complex(x[t * DIM + a], x[t * DIM + b]) * complex(cos[t * ROTARY // 2 + i], sin[t * ROTARY // 2 + i])
            y[t * DIM + a], y[t * DIM + b] = z.real, z.imag
    return y


print(f"enum {{ ROPE_TOKENS = {TOKENS}, ROPE_DIM = {DIM}, ROPE_ROTARY = {ROTARY} }};")
line("rope_x", x)
line("rope_cos", cos)
line("rope_sin", sin)
line("rope_halves", rotated(False))
line("rope_pairs", rotated(True))
