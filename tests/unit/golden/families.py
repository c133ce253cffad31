"""A tiny random checkpoint of each family with the logits that transformers computes for it in float64.

usage: families.py [CASE...]     (writes families/ beside itself; needs torch, transformers, safetensors)

A case is a family, or FAMILY.WHAT for what one checkpoint of it cannot show. A folder families/CASE holds config.json, model.safetensors (BF16) and logits.bin, float32 [1, 12, 64] for the ids that
ids() gives; families.json has widths that the families have by default. config.json says as little as can be: what a family's table says by default is to be used. Keys that it
reads are set to something else than their default; gains, biases and norms are random; windows are shorter than the
text, and embeddings so small that the epsilon of norms counts. tests/unit/golden/mutate.py shows that each fact counts.
"""
import json
import os
import shutil
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

HERE = os.path.dirname(os.path.abspath(__file__))
LENGTH, VOCAB = 12, 64
BASE = dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=32, bos_token_id=1, eos_token_id=2)
# The root of hidden_size is exact in BF16; four heads of 8.
GEMMA = dict(hidden_size=36, head_dim=8)
TIED = dict(tie_word_embeddings=True)
UNTIED = dict(tie_word_embeddings=False)
BIASED = dict(attention_bias=True)
HEADS = dict(head_dim=12)
GPT2 = dict(n_embd=32, n_layer=2, n_head=4, n_positions=32, hidden_size=None, intermediate_size=None,
            num_hidden_layers=None, num_attention_heads=None, num_key_value_heads=None, max_position_embeddings=None)
OPT = dict(ffn_dim=48, intermediate_size=None, num_key_value_heads=None)
# Multimodal models by the family of their text part. Heads, positions and the like are those of its class by default.
SPARSE = {"gemma3_text"}  # published text_configs leave these to the class
SIZES = ["num_attention_heads", "num_key_value_heads", "vocab_size", "max_position_embeddings"]
VISION = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4)
WRAPPED = {
    "gemma3": dict(text=dict(BASE, **GEMMA, model_type="gemma3_text", sliding_window=5), vision=VISION,
                   mm_tokens_per_image=4),
    "mistral3": dict(text=dict(BASE, model_type="mistral", sliding_window=5), spatial_merge_size=1,
                     vision=dict(VISION, head_dim=8, model_type="pixtral"), tie_word_embeddings=False),
}
CASES = {
    "llama": dict(BIASED, mlp_bias=True, **TIED),
    "mistral": dict(sliding_window=5, **TIED, **HEADS),
    "qwen2": dict(use_sliding_window=True, sliding_window=5, max_window_layers=1, **TIED),
    "qwen3": dict(BIASED, use_sliding_window=True, sliding_window=5, max_window_layers=1, **TIED, **HEADS),
    "seed_oss": dict(attention_out_bias=True, mlp_bias=True, **TIED, **HEADS),
    "phi3": dict(sliding_window=5, **TIED),
    "glm": dict(**TIED, **HEADS),
    "glm4": dict(**TIED, **HEADS),
    "gemma": dict(BIASED, **GEMMA),
    "gemma2": dict(BIASED, sliding_window=5, query_pre_attn_scalar=4, attn_logit_softcapping=1.0,
                   final_logit_softcapping=2.0, **GEMMA),
    "gemma3_text": dict(BIASED, sliding_window=5, num_hidden_layers=6, num_attention_heads=2, num_key_value_heads=1,
                        **{**GEMMA, "intermediate_size": 16}, final_logit_softcapping=2.0),
    "granite": dict(BIASED, mlp_bias=True, embedding_multiplier=12.0, attention_multiplier=0.7,
                    residual_multiplier=0.22, logits_scaling=8.0, **TIED),
    "starcoder2": dict(sliding_window=5),
    "olmo2": dict(BIASED, **TIED),
    "olmo3": dict(BIASED, sliding_window=5, num_hidden_layers=4, **TIED),
    "exaone4": dict(sliding_window=5, num_hidden_layers=4, **TIED),
    "cohere2": dict(BIASED, sliding_window=5, num_hidden_layers=4),
    "smollm3": dict(BIASED, mlp_bias=True, num_hidden_layers=4),
    "hunyuan_v1_dense": dict(BIASED, **TIED, **HEADS),
    "ernie4_5": dict(use_bias=True, **HEADS),
    "arcee": dict(BIASED, mlp_bias=True, **TIED),
    "ministral3": dict(sliding_window=5, **TIED, **HEADS),
    "ministral3.tempered": dict(rope_parameters=dict(rope_type="yarn", factor=4.0, llama_4_scaling_beta=0.3,
                                                     original_max_position_embeddings=3), **UNTIED, **HEADS),
    "apertus": dict(BIASED, **TIED),
    "opt": dict(OPT),
    "opt.post": dict(OPT, do_layer_norm_before=False, word_embed_proj_dim=24, enable_bias=False,
                     activation_function="gelu", **UNTIED),
    "gpt2": dict(GPT2),
    "gpt2.bare": dict(GPT2, n_inner=24, activation_function="relu", **UNTIED),
    "apertus.theta": dict(rope_parameters=dict(rope_type="default"), **UNTIED),
}


def ids():
    i = torch.arange(LENGTH)
    return ((7 * i * i + 3 * i + 1) % VOCAB).reshape(1, LENGTH)


def fill(model, family):
    """Numbers that BF16 holds, so that float64 computes with what is stored."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            gain = "norm" in name and name.endswith("weight") and "gemma" not in family
            gain = gain or (".ln_" in name and name.endswith("weight"))
            scale = 0.2 if p.ndim == 1 else 0.05 if "embed" in name or "wte" in name or "wpe" in name else 1.5 / p.shape[-1] ** 0.5
            p.copy_((torch.randn_like(p) * scale + (1.0 if gain else 0.0)).bfloat16())


def wrapped(name):
    """A multimodal model, and what its config.json says."""
    keys = dict(WRAPPED[name])
    keys["text_config"], keys["vision_config"] = keys.pop("text"), keys.pop("vision")
    return AutoModelForImageTextToText.from_config(AutoConfig.for_model(name, image_token_index=VOCAB - 1, **keys),
                                                   attn_implementation="eager"), keys


def write_wrapped(name):
    """The same with tensors named as transformers saves them, which is not how it names its modules."""
    folder = os.path.join(HERE, "families", name)
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(0)
    model, keys = wrapped(name)
    model = model.float().eval()
    fill(model, name)
    model.tie_weights()
    copy = wrapped(name)[0].bfloat16()
    copy.load_state_dict(model.state_dict())
    copy.save_pretrained(folder)
    os.remove(f"{folder}/generation_config.json")
    with open(f"{folder}/config.json", "w") as file:
        json.dump({"architectures": [type(model).__name__], "model_type": name, "dtype": "bfloat16", **keys}, file, indent=2)
        file.write("\n")
    with torch.no_grad():
        logits = model.double()(ids(), use_cache=False).logits
    logits.float().numpy().tofile(f"{folder}/logits.bin")
    print(f"{name}: largest logit {logits.abs().max():.3f}", flush=True)


def write(case, changes):
    family, folder = case.split(".")[0], os.path.join(HERE, "families", case)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    keys = {k: v for k, v in {**BASE, **changes}.items() if v is not None}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, pad_token_id=0, **keys),
                                             attn_implementation="eager").float().eval()
    fill(model, family)
    model.tie_weights()
    tied = model.config.tie_word_embeddings
    bare = case.endswith(".bare")  # names as in the first checkpoints of the Hub, without that of the base model
    tensors = {name.removeprefix("transformer.") if bare else name: t.bfloat16().contiguous()
               for name, t in model.state_dict().items() if not (tied and name == "lm_head.weight")}
    save_file(tensors, f"{folder}/model.safetensors")
    config = {"architectures": [type(model).__name__], "model_type": family, "dtype": "bfloat16", **keys}
    with open(f"{folder}/config.json", "w") as file:
        json.dump(config, file, indent=2)
        file.write("\n")
    with torch.no_grad():
        logits = model.double()(ids(), use_cache=False).logits
    logits.float().numpy().tofile(f"{folder}/logits.bin")
    size = sum(os.path.getsize(f"{folder}/{name}") for name in os.listdir(folder))
    print(f"{case}: {size} bytes, largest logit {logits.abs().max():.3f}", flush=True)


def defaults(family, changes):
    """Widths of heads and of each layer's window where a checkpoint does not say them."""
    keys = {k: v for k, v in {**BASE, **changes}.items()
            if v is not None and k not in ("head_dim", "sliding_window")}
    config = AutoConfig.for_model(family, pad_token_id=0, **{**keys, "max_position_embeddings": 100000})
    window, count = getattr(config, "sliding_window", None) or 0, config.num_hidden_layers
    types = getattr(config, "layer_types", None) or ["sliding_attention"] * count
    sizes = {}
    if family in SPARSE:
        config = AutoConfig.for_model(family)
        sizes = {"sizes": {k: getattr(config, k) for k in SIZES}}
    return sizes | {"head_dim": getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            "windows": [window if t == "sliding_attention" else 0 for t in types]}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:] or [*CASES, *WRAPPED]:
        if name in WRAPPED:
            write_wrapped(name)
        else:
            write(name, CASES[name])
    with open(os.path.join(HERE, "families.json"), "w") as file:
        json.dump({name: defaults(name, CASES[name]) for name in CASES if "." not in name and name != "gpt2"}, file, indent=1)
        file.write("\n")
