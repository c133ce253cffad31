"""Tiny random Llamas with the logits that transformers computes for them in float32; two of them as GGUF as well.

usage: llama.py     (writes llama/ beside itself; needs torch, transformers, safetensors, gguf)

A folder llama/NAME holds the checkpoint and logits.bin, float32 [2, 20, 48] for the ids that ids() gives.
"""
import json
import os
import shutil

import gguf
import torch
from transformers import LlamaConfig, LlamaForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
SEQUENCES, LENGTH, VOCAB = 2, 20, 48
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 8

# llama3: a short original context, so that 20 tokens see all three ranges of wavelengths.
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
VARIANTS = {
    "plain": dict(dtype=torch.bfloat16, tie_word_embeddings=True),
    "biased": dict(dtype=torch.float16, tie_word_embeddings=False, attention_bias=True, mlp_bias=True),
    "linear": dict(dtype=torch.float32, tie_word_embeddings=True, old_config=True,
                   rope_parameters={"rope_type": "linear", "rope_theta": 1000.0, "factor": 4.0}),
    "llama3": dict(dtype=torch.bfloat16, tie_word_embeddings=False, rope_parameters=LLAMA3, max_shard_size="16KB"),
}


def ids():
    i = torch.arange(SEQUENCES * LENGTH)
    return ((7 * i * i + 3 * i + 1) % VOCAB).reshape(SEQUENCES, LENGTH)


def build(seed, dtype, **keys):
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(
        hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS, head_dim=HEAD_DIM, vocab_size=VOCAB, max_position_embeddings=256,
        rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, **keys)).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(1 + 0.2 * torch.randn_like(p) if "norm" in name else 0.25 * torch.randn_like(p))
    return model.to(dtype)


def to_old_config(path):
    """config.json as transformers 4 wrote it."""
    config = json.load(open(path))
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope["rope_theta"]
    config["rope_scaling"] = {"type": rope["rope_type"], "factor": rope["factor"]}
    config["torch_dtype"] = config.pop("dtype")
    json.dump(config, open(path, "w"), indent=2)


def permute(w, heads):
    """As llama.cpp's converter stores q and k: the two rotary halves of each head interleaved."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def llama3_factors(rope):
    factors = []
    for i in range(HEAD_DIM // 2):
        wavelength = 2 * torch.pi * rope["rope_theta"] ** (2 * i / HEAD_DIM)
        ratio = rope["original_max_position_embeddings"] / wavelength
        smooth = (ratio - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"])
        smooth = min(max(smooth, 0.0), 1.0)
        factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return torch.tensor(factors, dtype=torch.float32)


NAMES = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
         "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def gguf_name(name):
    module, _, kind = name.rpartition(".")
    if module in TOP:
        return f"{TOP[module]}.{kind}"
    _, _, layer, part = module.split(".", 3)
    return f"blk.{layer}.{NAMES[part]}.{kind}"


def write_gguf(path, model, dtype):
    c = model.config
    w = gguf.GGUFWriter(path, "llama")
    w.add_embedding_length(c.hidden_size)
    w.add_feed_forward_length(c.intermediate_size)
    w.add_block_count(c.num_hidden_layers)
    w.add_context_length(c.max_position_embeddings)
    w.add_head_count(c.num_attention_heads)
    w.add_head_count_kv(c.num_key_value_heads)
    w.add_key_length(c.head_dim)
    w.add_value_length(c.head_dim)
    w.add_rope_dimension_count(c.head_dim)
    w.add_layer_norm_rms_eps(c.rms_norm_eps)
    w.add_rope_freq_base(c.rope_parameters["rope_theta"])
    w.add_bos_token_id(c.bos_token_id)
    w.add_eos_token_id(c.eos_token_id)
    if c.rope_parameters["rope_type"] == "llama3":
        w.add_rope_scaling_orig_ctx_len(c.rope_parameters["original_max_position_embeddings"])
        w.add_tensor("rope_freqs.weight", llama3_factors(c.rope_parameters).numpy())
    for name, t in model.state_dict().items():
        if name == "lm_head.weight" and c.tie_word_embeddings:
            continue
        t = t.float()
        for part, heads in (("q_proj", HEADS), ("k_proj", KV_HEADS)):
            t = permute(t, heads) if part in name else t
        if t.ndim == 1:
            w.add_tensor(gguf_name(name), t.contiguous().numpy())
        else:
            data = gguf.quantize(t.contiguous().numpy(), dtype)
            w.add_tensor(gguf_name(name), data, raw_dtype=dtype)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def main():
    root = os.path.join(HERE, "llama")
    shutil.rmtree(root, ignore_errors=True)
    for seed, (name, keys) in enumerate(VARIANTS.items()):
        keys = dict(keys)
        old = keys.pop("old_config", False)
        shard = keys.pop("max_shard_size", "1GB")
        folder = os.path.join(root, name)
        model = build(seed, **keys)
        model.save_pretrained(folder, max_shard_size=shard)
        os.remove(os.path.join(folder, "generation_config.json"))
        if old:
            to_old_config(os.path.join(folder, "config.json"))
        with torch.no_grad():
            logits = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")(ids()).logits
        logits.numpy().tofile(os.path.join(folder, "logits.bin"))
        print(name, float(logits.abs().max()), sorted(os.listdir(folder)))
        if name in ("biased", "llama3"):
            kind = gguf.GGMLQuantizationType.F16 if name == "biased" else gguf.GGMLQuantizationType.BF16
            write_gguf(os.path.join(root, f"{name}.gguf"), model, kind)


if __name__ == "__main__":
    main()
