"""usage: reference.py MODEL.gguf FOLDER   SmolLM2's GGUF as a Hugging Face folder, made without any of our code

The weights are what transformers reads from the GGUF, rounded to BF16. Its GGUF reader knows nothing of the
pre-tokenizer "smollm" (digits one by one, then byte-level), so the tokenizer is put together here.
"""

import pathlib
import sys

import torch
from gguf import GGUFReader
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM

CONTROL = 3  # the token type of <|im_start|> and the like


def make_tokenizer(reader):
    key = {name: field.contents() for name, field in reader.fields.items() if name.startswith("tokenizer.ggml.")}
    assert key["tokenizer.ggml.pre"] == "smollm", key["tokenizer.ggml.pre"]
    words = key["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in key["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [word for word, kind in zip(words, key["tokenizer.ggml.token_type"]) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(word, normalized=False) for word in control])
    return tokenizer


def main(gguf, folder):
    gguf = pathlib.Path(gguf)
    read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)  # one that may be saved
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    make_tokenizer(GGUFReader(gguf)).save(f"{folder}/tokenizer.json")


if __name__ == "__main__":
    main(*sys.argv[1:])
