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

from gguf_file import write

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


def llama3_factors(rope):
    factors = []
    for i in range(HEAD_DIM // 2):
        wavelength = 2 * torch.pi * rope["rope_theta"] ** (2 * i / HEAD_DIM)
        ratio = rope["original_max_position_embeddings"] / wavelength
        smooth = (ratio - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"])
        smooth = min(max(smooth, 0.0), 1.0)
        factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return torch.tensor(factors, dtype=torch.float32)


def say(w, c):
    w.add_rope_dimension_count(c.head_dim)
    w.add_rope_freq_base(c.rope_parameters["rope_theta"])
    w.add_bos_token_id(c.bos_token_id)
    w.add_eos_token_id(c.eos_token_id)
    if c.rope_parameters["rope_type"] == "llama3":
        w.add_rope_scaling_orig_ctx_len(c.rope_parameters["original_max_position_embeddings"])
        w.add_tensor("rope_freqs.weight", llama3_factors(c.rope_parameters).numpy())


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
            write(os.path.join(root, f"{name}.gguf"), "llama", model, say, permuted=True, dtype=kind)


if __name__ == "__main__":
    main()
