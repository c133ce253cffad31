"""Tiny random Gemma 3 models as GGUF with the logits that transformers computes for them in float32.

usage: gemma3.py     (writes gemma3/ beside itself; needs torch, transformers, gguf)

gemma3/NAME.gguf is as llama.cpp's converter writes one: gains with 1 added, no scale of scores. `plain` leaves unsaid
what Gemma 3 always has: five layers with a window for one without, and the theta of the former. `stated` says both.
gemma3/NAME/logits.bin: float32 [2, 20, 48] for the ids of llama.py.
"""
import os
import shutil

import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from gguf_file import FULL, SLIDING, theta, write
from llama import VOCAB, ids

HERE = os.path.dirname(os.path.abspath(__file__))
VARIANTS = {
    "plain": dict(layer_types=[SLIDING] * 5 + [FULL, SLIDING], theta_sliding=10000.0, stated=False),
    "stated": dict(layer_types=[SLIDING, FULL, SLIDING], theta_sliding=40.0, stated=True, final_logit_softcapping=3.0),
}

def build(seed, layer_types, theta_sliding, **keys):
    torch.manual_seed(seed)
    rope = {FULL: {"rope_type": "default", "rope_theta": 500.0},
            SLIDING: {"rope_type": "default", "rope_theta": theta_sliding}}
    model = Gemma3ForCausalLM(Gemma3TextConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=len(layer_types), num_attention_heads=2,
        num_key_value_heads=1, head_dim=12, query_pre_attn_scalar=12, vocab_size=VOCAB, max_position_embeddings=256,
        sliding_window=5, layer_types=layer_types, rope_parameters=rope, pad_token_id=0, eos_token_id=1,
        bos_token_id=2, attn_implementation="eager", **keys)).float().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.3 * torch.randn_like(p))
        model.tie_weights()
    return model


def say(stated):
    def written(w, c):
        w.add_rope_freq_base(theta(c))
        w.add_sliding_window(c.sliding_window)
        if stated:
            w.add_float32("gemma3.rope.freq_base_swa", theta(c, SLIDING))
            w.add_array("gemma3.attention.sliding_window_pattern", [t == SLIDING for t in c.layer_types])
            w.add_float32("gemma3.final_logit_softcapping", c.final_logit_softcapping)
    return written


def main():
    root = os.path.join(HERE, "gemma3")
    shutil.rmtree(root, ignore_errors=True)
    for seed, (name, keys) in enumerate(VARIANTS.items()):
        keys = dict(keys)
        stated = keys.pop("stated")
        model = build(seed, **keys)
        os.makedirs(os.path.join(root, name))
        write(os.path.join(root, f"{name}.gguf"), "gemma3", model, say(stated), offset=1)
        with torch.no_grad():
            logits = model(ids()).logits
        logits.numpy().tofile(os.path.join(root, name, "logits.bin"))
        print(name, float(logits.abs().max()))


if __name__ == "__main__":
    main()
