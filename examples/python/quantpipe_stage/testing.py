"""For tests of stages: a small network, and a call of a stage inside the test's own process, without sockets."""
from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from .stage import Context, Stage
from .unit import Unit

HIDDEN, FFN, VOCAB, LAYERS = 32, 48, 40, 2
INT4 = {"name": "int4", "weights": {"format": "int4", "group": 16, "symmetric": True}, "ignore": ["lm_head"]}


def network() -> dict[str, Any]:
    """A Llama of two layers with grouped value heads, as the model unit describes it."""
    linears = [{"module": module, "site": site, "out": out, "in": columns, "bias": False} for module, site, out, columns in (
        ("self_attn.q_proj", "attn_in", HIDDEN, HIDDEN), ("self_attn.k_proj", "attn_in", HIDDEN // 2, HIDDEN),
        ("self_attn.v_proj", "attn_in", HIDDEN // 2, HIDDEN), ("self_attn.o_proj", "attn_out", HIDDEN, HIDDEN),
        ("mlp.gate_proj", "mlp_in", FFN, HIDDEN), ("mlp.up_proj", "mlp_in", FFN, HIDDEN),
        ("mlp.down_proj", "mlp_out", HIDDEN, FFN))]
    sites = [{"name": "attn_in", "in": HIDDEN, "fold": {"norm": "input_layernorm"}},
             {"name": "attn_out", "in": HIDDEN, "fold": {"linear": "self_attn.v_proj", "first": 0, "head": 8, "repeat": 2}},
             {"name": "mlp_in", "in": HIDDEN, "fold": {"norm": "post_attention_layernorm"}},
             {"name": "mlp_out", "in": FFN, "fold": {"linear": "mlp.up_proj", "first": 0, "head": FFN, "repeat": 1}}]
    norms = [{"module": module, "width": HIDDEN, "offset": 0.0, "bias": False}
             for module in ("input_layernorm", "post_attention_layernorm")]
    return {"dtype": "BF16", "hidden": HIDDEN, "vocab": VOCAB, "embedding": "model.embed_tokens", "final_norm": "model.norm",
            "head": "lm_head", "tied": False, "types": [{"linears": linears, "sites": sites, "norms": norms}],
            "layers": [{"name": f"model.layers.{i}", "type": 0} for i in range(LAYERS)]}


def units(scheme: dict[str, Any] | None = None, statistics: tuple[str, ...] = (), seed: int = 1) -> list[Unit]:
    """All units of that network with random weights: model, embedding, layers, head, end. statistics: words of sites -
    hessian, absmax, absmean, min, max, samples - that the layers have, of random inputs."""
    random, made = np.random.default_rng(seed), network()
    kind = made["types"][0]
    model = Unit("model", 0, {"path": "/model", "config": {}, "tokenizer": None, "scheme": scheme or INT4,
                              "blocks": LAYERS + 2, "network": made})
    blocks = [Unit("block", n + 1) for n in range(LAYERS + 2)]
    blocks[0].put("model.embed_tokens.weight", random.normal(size=(VOCAB, HIDDEN)), "BF16")
    blocks[-1].put("model.norm.weight", np.ones(HIDDEN), "BF16")
    blocks[-1].put("lm_head.weight", random.normal(size=(VOCAB, HIDDEN)), "BF16")
    for layer, unit in zip(made["layers"], blocks[1:-1]):
        for linear in kind["linears"]:
            unit.put(f"{layer['name']}.{linear['module']}.weight", random.normal(size=(linear["out"], linear["in"])), "BF16")
        for norm in kind["norms"]:
            unit.put(f"{layer['name']}.{norm['module']}.weight", np.ones(HIDDEN), "BF16")
        for site in kind["sites"] if statistics else []:
            x = random.normal(size=(64, site["in"])).astype(np.float32)
            of_x = {"hessian": (x.T @ x)[np.triu_indices(site["in"])], "absmax": np.abs(x).max(0), "absmean": np.abs(x).mean(0),
                    "min": x.min(0), "max": x.max(0), "samples": x}
            for word in statistics:
                unit.put(f"{layer['name']}.{site['name']}.{word}", of_x[word])
            unit.attrs["tokens"] = len(x)
    return [model, *blocks, Unit("end", LAYERS + 3, {"blocks": LAYERS + 2})]


@dataclass
class Outcome:
    """What a stage did: units by output port, and messages of each kind."""

    units: dict[str | None, list[Unit]] = field(default_factory=dict)
    messages: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [body for sent, body in self.messages if sent == kind]

    @property
    def out(self) -> list[Unit]:
        return [unit for port in self.units.values() for unit in port]


class _NoRuntime:
    """Stands in for the sockets."""

    def __init__(self, outcome: Outcome):
        self.outcome, self.instance, self.units, self.seq = outcome, "test", 0, None

    def send(self, kind: str, **body: Any) -> None:
        self.outcome.messages.append((kind, body))

    def emit(self, port: str | None, unit: Unit, origin: Any) -> None:
        self.outcome.units.setdefault(port, []).append(unit)

    def stopped(self) -> bool:
        return False


def call(stage: Stage, given: list[Unit] | None = None, *, params: dict[str, Any] | None = None,
         wants: tuple[str, ...] = (), context: dict[str, Any] | None = None) -> Outcome:
    """Runs a stage on units, by default those of the small network; parameters that are not given have their defaults."""
    given, outcome = units() if given is None else given, Outcome()
    values = {name: param.read((params or {}).get(name, param.default)) for name, param in stage.params.items()}
    config = {"params": values, "wants": list(wants), "drops": [], "scratch": ".",
              "context": {"scheme": INT4, "model": "/model", "data": None} | (context or {})}
    running = Context(_NoRuntime(outcome), SimpleNamespace(**values), config)  # type: ignore[arg-type]
    if not stage.descriptor["inputs"]:
        stage.function(running)
    for unit in given if stage.descriptor["inputs"] else []:
        running.port = stage.descriptor["inputs"][0]["name"]
        stage.process(running, unit, comes_back=False)
    return outcome
