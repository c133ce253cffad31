"""Tiny random Gemma 3 models as GGUF with the logits that transformers computes for them in float32.

usage: gemma3.py     (writes gemma3/ beside itself; needs torch, transformers, gguf)

gemma3/NAME.gguf is as llama.cpp's converter writes one: gains with 1 added, no scale of scores. `plain` leaves unsaid
what Gemma 3 always has: five layers with a window for one without, and the theta of the former. `stated` says both.
gemma3/NAME/logits.bin: float32 [2, 20, 48] for the ids of llama.py.
"""
import os
import shutil

import gguf
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from llama import VOCAB, ids

HERE = os.path.dirname(os.path.abspath(__file__))
SLIDING, FULL = "sliding_attention", "full_attention"
VARIANTS = {
    "plain": dict(layer_types=[SLIDING] * 5 + [FULL, SLIDING], theta_sliding=10000.0, stated=False),
    "stated": dict(layer_types=[SLIDING, FULL, SLIDING], theta_sliding=40.0, stated=True, final_logit_softcapping=3.0),
}
TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}
NAMES = {"input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm",
         "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm",
         "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}


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


def gguf_name(name):
    module, _, kind = name.rpartition(".")
    if module in TOP:
        return f"{TOP[module]}.{kind}"
    _, _, layer, part = module.split(".", 3)
    return f"blk.{layer}.{NAMES[part]}.{kind}"


def write_gguf(path, model, stated):
    c = model.config
    w = gguf.GGUFWriter(path, "gemma3")
    w.add_embedding_length(c.hidden_size)
    w.add_feed_forward_length(c.intermediate_size)
    w.add_block_count(c.num_hidden_layers)
    w.add_context_length(c.max_position_embeddings)
    w.add_head_count(c.num_attention_heads)
    w.add_head_count_kv(c.num_key_value_heads)
    w.add_key_length(c.head_dim)
    w.add_value_length(c.head_dim)
    w.add_layer_norm_rms_eps(c.rms_norm_eps)
    w.add_rope_freq_base(c.rope_parameters[FULL]["rope_theta"])
    w.add_sliding_window(c.sliding_window)
    if stated:
        w.add_float32("gemma3.rope.freq_base_swa", c.rope_parameters[SLIDING]["rope_theta"])
        w.add_array("gemma3.attention.sliding_window_pattern", [t == SLIDING for t in c.layer_types])
        w.add_float32("gemma3.final_logit_softcapping", c.final_logit_softcapping)
    for name, t in model.state_dict().items():
        if name != "lm_head.weight":
            w.add_tensor(gguf_name(name), (t + 1 if "norm" in name else t).contiguous().numpy())
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def main():
    root = os.path.join(HERE, "gemma3")
    shutil.rmtree(root, ignore_errors=True)
    for seed, (name, keys) in enumerate(VARIANTS.items()):
        keys = dict(keys)
        stated = keys.pop("stated")
        model = build(seed, **keys)
        os.makedirs(os.path.join(root, name))
        write_gguf(os.path.join(root, f"{name}.gguf"), model, stated)
        with torch.no_grad():
            logits = model(ids()).logits
        logits.numpy().tofile(os.path.join(root, name, "logits.bin"))
        print(name, float(logits.abs().max()))


if __name__ == "__main__":
    main()
