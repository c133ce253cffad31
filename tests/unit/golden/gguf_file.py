"""Writes a model of transformers as llama.cpp's converter does: for llama.py, gemma3.py and families_gguf.py.

Names of tensors are those that the package gguf has for transformers' names.
"""
import gguf

FULL, SLIDING = "full_attention", "sliding_attention"


def permute(w, heads):
    """As llama.cpp's converter stores q and k of Llama: the two rotary halves of each head interleaved."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def add_sizes(w, c, head_dim=True):
    w.add_embedding_length(c.hidden_size)
    w.add_feed_forward_length(4 * c.hidden_size if c.model_type == "gpt2" else c.intermediate_size)
    w.add_block_count(c.num_hidden_layers)
    w.add_context_length(c.max_position_embeddings)
    w.add_head_count(c.num_attention_heads)
    if hasattr(c, "num_key_value_heads"):
        w.add_head_count_kv(c.num_key_value_heads)
    if head_dim and getattr(c, "head_dim", None):
        w.add_key_length(c.head_dim)
        w.add_value_length(c.head_dim)
    if hasattr(c, "rms_norm_eps"):
        w.add_layer_norm_rms_eps(c.rms_norm_eps)
    else:
        w.add_layer_norm_eps(c.layer_norm_epsilon if c.model_type == "gpt2" else c.norm_epsilon)


def theta(c, layers=FULL):
    return c.rope_parameters.get(layers, c.rope_parameters)["rope_theta"]


def add_tensors(w, arch, model, permuted, offset, dtype):
    """offset: what is added to gains, for which a converter adds what the norm does; dtype: of matrices."""
    c = model.config
    names = gguf.get_tensor_name_map(next(a for a, n in gguf.MODEL_ARCH_NAMES.items() if n == arch), c.num_hidden_layers)
    for name, t in model.state_dict().items():
        if name == "lm_head.weight" and c.tie_word_embeddings:
            continue
        t = t.float()
        if permuted:
            for part, heads in (("q_proj", c.num_attention_heads), ("k_proj", c.num_key_value_heads)):
                t = permute(t, heads) if part in name else t
        if c.model_type == "gpt2" and name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight")):
            t = t.T
        t = t + offset if "norm" in name and name.endswith("weight") else t
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if t.ndim == 1:
            w.add_tensor(stored, t.contiguous().numpy())
        else:
            w.add_tensor(stored, gguf.quantize(t.contiguous().numpy(), dtype), raw_dtype=dtype)


def write(path, arch, model, say=lambda writer, config: None, permuted=False, offset=0, head_dim=True,
          dtype=gguf.GGMLQuantizationType.F32):
    """say(writer, config): adds what all do not have in common, with theta."""
    w = gguf.GGUFWriter(path, arch)
    add_sizes(w, model.config, head_dim)
    say(w, model.config)
    add_tensors(w, arch, model, permuted, offset, dtype)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
