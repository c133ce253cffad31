"""Makes examples/tiny: the texts, the tokenizer and the trained model. Needs torch, transformers and tokenizers.

    python examples/tiny/make.py [--steps 2600] [--threads 1] [--out FOLDER]

The texts and the tokenizer are the same every time. The weights follow from the seeds too, but only up to the
machine's floating point, so the committed ones are the reference.
"""

import argparse
import math
import pathlib

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from grammar import World, Writer

WORLD, CALIBRATION, EVALUATION, TOKENIZER, UNEVEN, TRAINING = 1, 11, 12, 13, 5, 1000  # seeds
VOCABULARY, LENGTH, BATCH_TOKENS = 1024, 512, 4096
END = "<|endoftext|>"


def make_tokenizer(text):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        text.splitlines(keepends=True),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
        ),
    )
    return tokenizer


def make_model():
    torch.manual_seed(1)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=1024,
            rope_theta=10000.0,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
            initializer_range=0.05,
        )
    )


def batches(world, tokenizer, steps):
    """New text for every batch, written and tokenized as it is needed; windows are short until the last fifth."""
    seed, ids = TRAINING, []
    for step in range(steps):
        while len(ids) < BATCH_TOKENS:
            ids += tokenizer.encode(Writer(world, seed).text(200_000)).ids
            seed += 1
        yield torch.tensor(ids[:BATCH_TOKENS]).view(-1, LENGTH if step >= 0.8 * steps else LENGTH // 2)
        ids = ids[BATCH_TOKENS:]


def train(model, world, tokenizer, steps):
    """AdamW, warm-up, then a cosine down to a twentieth; matrix products in BF16."""
    peak, losses = 4e-3, []
    decay = [p for p in model.parameters() if p.dim() == 2]
    other = [p for p in model.parameters() if p.dim() != 2]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.05}, {"params": other, "weight_decay": 0.0}], lr=peak, betas=(0.9, 0.98)
    )
    for step, ids in enumerate(batches(world, tokenizer, steps), 1):
        for group in optimizer.param_groups:
            group["lr"] = peak * min(1, step / 100) * (0.05 + 0.95 * (1 + math.cos(math.pi * step / steps)) / 2)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if step % 100 == 0:
            print(f"step {step}/{steps}  perplexity {math.exp(sum(losses) / len(losses)):.3f}", flush=True)
            losses = []


@torch.no_grad()
def make_uneven(model):
    """Gives some channels large weights and small inputs: large models grow such channels, one this small does not.

    A norm's gain or a linear's row is divided by what the columns that read it are multiplied with. With powers of two
    this is exact, in BF16 too: the network computes the same, but rounding it to few bits costs more.
    """
    generator = torch.Generator().manual_seed(UNEVEN)

    def scales(count):
        shares = torch.tensor([0.9, 0.06, 0.03, 0.01])  # of channels with a scale of 1, 2, 4, 8
        return 2.0 ** torch.multinomial(shares, count, replacement=True, generator=generator)

    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for norm, readers in (
            (layer.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj)),
            (layer.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj)),
        ):
            scale = scales(norm.weight.numel())
            norm.weight /= scale
            for reader in readers:
                reader.weight *= scale
        scale = scales(mlp.up_proj.out_features)
        mlp.up_proj.weight /= scale[:, None]
        mlp.down_proj.weight *= scale
        scale = scales(attention.v_proj.out_features)
        attention.v_proj.weight /= scale[:, None]
        heads = scale.view(-1, 1, attention.head_dim).expand(-1, attention.num_key_value_groups, -1)
        attention.o_proj.weight *= heads.reshape(-1)


@torch.no_grad()
def perplexity(model, ids):
    count = len(ids) // LENGTH
    rows = torch.tensor(ids[: count * LENGTH]).view(count, LENGTH)
    losses = [model(input_ids=r[None], labels=r[None]).loss.double().item() for r in rows]
    return math.exp(sum(losses) / count)


@torch.no_grad()
def round_to_int4(model, group=128):
    """What rounding to nearest INT4 does, for the closing lines only."""
    for name, weight in model.named_parameters():
        if name.endswith("proj.weight"):
            w = weight.view(-1, group)
            scale = (w.abs().amax(1, keepdim=True) / 7.5).bfloat16().float()
            w.copy_(torch.clamp(torch.round(w / scale), -8, 7) * scale)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)

    world = World(WORLD)
    (args.out / "train.txt").write_text(Writer(world, CALIBRATION).text(240_000))
    test = Writer(world, EVALUATION).text(80_000)
    (args.out / "test.txt").write_text(test)
    tokenizer = make_tokenizer(Writer(world, TOKENIZER).text(2_000_000))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, model_max_length=1024
    ).save_pretrained(args.out)

    model = make_model()
    train(model, world, tokenizer, args.steps)
    make_uneven(model)
    model.to(torch.bfloat16).save_pretrained(args.out)

    model = LlamaForCausalLM.from_pretrained(args.out, dtype=torch.float32)
    ids = tokenizer.encode(test).ids
    before = perplexity(model, ids)
    round_to_int4(model)
    print(
        f"{args.steps} steps, {sum(p.numel() for p in model.parameters())} parameters, {len(ids)} evaluation tokens, "
        f"perplexity {before:.4f}, rounded to INT4 (group 128) {perplexity(model, ids):.4f}"
    )


if __name__ == "__main__":
    main()
