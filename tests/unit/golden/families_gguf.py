"""Tiny random models of families as GGUF with the logits that transformers computes for them in float32.

usage: families_gguf.py [FAMILY...]     (writes gguf/ beside itself; needs torch, transformers, gguf)

gguf/FAMILY.gguf has the metadata that llama.cpp's converter writes for the family (conversion/*.py in its repository):
no window for Qwen, none of 0 but for Phi 3, the multipliers of Granite, and so on. gguf/FAMILY/logits.bin: float32
[2, 20, 48] for the ids of llama.py.
"""
import os
import sys

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from gguf_file import FULL, SLIDING, theta, write
from llama import VOCAB, ids

HERE = os.path.dirname(os.path.abspath(__file__))
BASE = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            vocab_size=VOCAB, max_position_embeddings=256, pad_token_id=0, bos_token_id=1, eos_token_id=2)
SIZES = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
         "max_position_embeddings"]
GEMMA = dict(hidden_size=16, head_dim=12, num_attention_heads=2, num_key_value_heads=1)
SHORT, LONG = [1.0, 1.25, 1.5], [1.0, 2.0, 4.0]


def plain(w, c):
    w.add_rope_freq_base(theta(c))
    w.add_bos_token_id(c.bos_token_id)
    w.add_eos_token_id(c.eos_token_id)
    w.add_pad_token_id(c.pad_token_id)


def gpt2(w, c):
    w.add_bos_token_id(c.bos_token_id)
    w.add_eos_token_id(c.eos_token_id)


def windows(w, c):
    plain(w, c)
    w.add_sliding_window(c.sliding_window)


def patterned(w, c):
    windows(w, c)
    w.add_sliding_window_pattern([t == SLIDING for t in c.layer_types])


def gemma2(w, c):
    windows(w, c)
    w.add_attn_logit_softcapping(c.attn_logit_softcapping)
    w.add_final_logit_softcapping(c.final_logit_softcapping)


def phi3(w, c):
    plain(w, c)
    w.add_sliding_window(c.sliding_window or 0)
    w.add_rope_scaling_orig_ctx_len(c.original_max_position_embeddings)
    w.add_rope_dimension_count(c.hidden_size // c.num_attention_heads)


def phi3_long(w, c):
    phi3(w, c)
    w.add_rope_scaling_attn_factors(1.0)  # what the lengths say counts
    w.add_tensor("rope_factors_long.weight", torch.tensor(LONG).numpy())
    w.add_tensor("rope_factors_short.weight", torch.tensor(SHORT).numpy())


def glm4(w, c):
    plain(w, c)
    w.add_rope_dimension_count(c.head_dim // 2)


def granite(w, c):
    plain(w, c)
    w.add_rope_dimension_count(c.hidden_size // c.num_attention_heads)
    w.add_attention_scale(c.attention_multiplier)
    w.add_embedding_scale(c.embedding_multiplier)
    w.add_residual_scale(c.residual_multiplier)
    w.add_logit_scale(c.logits_scaling)


# Of a family: what it has in its configuration, and how it is written.
LONG_ROPE = dict(rope_type="longrope", rope_theta=10000.0, short_factor=SHORT, long_factor=LONG)
CASES = {
    "mistral": (dict(sliding_window=5), dict(arch="llama", say=windows, permuted=True)),
    "gemma": (GEMMA, dict(say=plain, offset=1)),
    "gemma2": (dict(GEMMA, sliding_window=5, query_pre_attn_scalar=12, attn_logit_softcapping=1.0,
                    final_logit_softcapping=2.0), dict(say=gemma2, offset=1)),
    "qwen2": ({}, dict(say=plain)),
    "qwen3": (dict(head_dim=8, tie_word_embeddings=True), dict(say=plain)),
    "phi3": (dict(sliding_window=5), dict(say=phi3)),
    "phi3.long": (dict(original_max_position_embeddings=16, rope_parameters=LONG_ROPE), dict(arch="phi3", say=phi3_long)),
    "glm4": (dict(head_dim=8), dict(say=glm4)),
    "granite": (dict(attention_multiplier=0.3, embedding_multiplier=12.0, residual_multiplier=0.22, logits_scaling=8.0,
                     attention_bias=True, mlp_bias=True), dict(say=granite, permuted=True, head_dim=False)),
    "olmo2": ({}, dict(say=plain)),
    "starcoder2": (dict(sliding_window=None), dict(say=plain)),
    "exaone4": (dict(sliding_window=5, num_hidden_layers=4), dict(say=patterned)),
    "exaone4.full": (dict(sliding_window=None, layer_types=[FULL, FULL]), dict(arch="exaone4", say=plain)),
    "gpt2": (dict(n_embd=24, n_layer=2, n_head=4, n_positions=64, **{k: None for k in SIZES}), dict(say=gpt2)),
    "smollm3": (dict(num_hidden_layers=4, attention_bias=True), dict(say=plain, permuted=True)),
}


def known(keys):
    return {k: v for k, v in keys.items() if not (k in SIZES and v is None)}


def main():
    root = os.path.join(HERE, "gguf")
    for name in sys.argv[1:] or CASES:
        keys, how = CASES[name]
        family = name.split(".")[0]
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **known({**BASE, **keys})),
                                                 attn_implementation="eager").float().eval()
        with torch.no_grad():
            for key, p in model.named_parameters():
                gain = 1.0 if "norm" in key and key.endswith("weight") and "gemma" not in family else 0.0
                p.copy_(gain + 0.25 * torch.randn_like(p))
            model.tie_weights()
            logits = model(ids()).logits
        os.makedirs(os.path.join(root, name), exist_ok=True)
        write(os.path.join(root, f"{name}.gguf"), how.pop("arch", family), model, **how)
        logits.numpy().tofile(os.path.join(root, name, "logits.bin"))
        print(name, float(logits.abs().max()))


if __name__ == "__main__":
    main()
