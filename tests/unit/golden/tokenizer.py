"""Makes tokenizer.golden.json: token ids by the `tokenizers` package, for tests/unit/tokenizer_test.c.

Three small BPE models are trained on a text made here; each case puts another normalizer, pre-tokenizer, list of added
tokens or post-processor around one of them. Texts are hexadecimal, because some of them are no UTF-8.
"""

import collections
import json
import pathlib
import random

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

SAMPLES = """Hello, world! How's it going? I'll say: they've, we're, I'm, he'd, DON'T
Bonjour le monde, ça va déjà?
Grüße aus Österreich: Straße, Übermaß
¡Hola, señor! ¿Qué tal, niño?
Olá, coração não é pão
Ciao, perché così?
Hallo wereld, geëerd
Hej världen, får jag åka?
Hei maailma, hyvää päivää
Halló heimur, þú ert æði
Cześć świecie, żółć gęślą jaźń
Ahoj světe, příliš žluťoučký kůň
Helló világ, árvíztűrő tükörfúrógép
Salut lume, mâine și țară
Zdravo svijete, ljubav đak
Merhaba dünya, İstanbul ığdır
Xin chào thế giới, tiếng Việt
Selamat pagi dunia
Sveika pasaule, ķīļi šķēres
Labas pasauli, ąžuolų
Γειά σου Κόσμε, ΌΧΙ άλλο
Привет, мир! Съешь ещё этих мягких
Привіт, світе, їжак ґанок
Здравей, свят
שלום עולם, מה נשמע
مرحبا بالعالم، كيف الحال؟
سلام دنیا، می‌خواهم
नमस्ते दुनिया, हिन्दी में क्षेत्र
হ্যালো বিশ্ব, বাংলা
வணக்கம் உலகம்
హలో ప్రపంచం
สวัสดีชาวโลก ภาษาไทย
ສະບາຍດີ
ជំរាបសួរ
မင်္ဂလာပါ
გამარჯობა სამყარო
Բարեւ աշխարհ
ሰላም ለዓለም
你好,世界。今天天气很好!
こんにちは世界、カタカナとひらがな
안녕하세요 세계
Сәлем әлем, қазақ""".splitlines()
BROKEN = [
    "61ff62",
    "c3",
    "e282",
    "f09f98",
    "eda080",
    "c080",
    "f5808080",
    "e28261e282ac",
    "80bf",
    "f0808080",
    "f48fbfbf",
    "f4908080",
    "61c328f0288cbc",
    "e0a0",
    "ed9fbf",
    "6100620a00",
]
NASTY = [
    "",
    " ",
    "  ",
    "   a",
    "a   ",
    "\n",
    "\r\n",
    "a\r\n\r\nb",
    "\t\tx\t",
    " \n \n  y",
    "a \u00a0 b\u3000c\u2028d\u0085e\u180ef",
    "😀 👩‍👩‍👧‍👦 🇩🇪 👍🏽 ☃️",
    "e\u0301 é n\u0303 ñ ﬁ Å Å ① ² ½ Ⅳ ㎏ ｱ",
    "x\u0301\u0302\u0303\u0304y",
    "क्ष\u200di\u200c",
    "12345678901234567890 3.14159 1,000,000 ٣٤٥ ४५ x2y",
    "don't DON'T I'LL we'Ve o'clock 'tis ''s",
    "!!!??? ... --- ###$$$%%% <<>>",
    "https://example.org/a_b?c=d&e=[f]#g",
    "if (x == 1) {\n    return y[2];\n}",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "ab" * 60,
    "▁a ▁▁b c▁",
    "<s>",
    "<s> hi</s>",
    "x<s>y",
    "<unk> <unk>x",
    "a<|end|>b",
    "<|end|><|end|> <|end|>",
    "one   <pad>   two",
    "ONE Mask masks MASK mask",
    "the theatre the",
    "the",
    "İI ıi ΣΑΣ ß ẞ Ǆ",
    "\ufeffbom",
    "\u0000nul\u0000",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈",
    "ﷺ",
    "가각\u1100\u1161\u11a8",
    "\u0344\u0374\u1e9b\u0323",
    "_under_score__",
    "a²b³ ¼x",
    "a-b--c",
    "tab\tand  two",
    "-5 +7",
    "the end of the line \n",
]


def training_text():
    rng = random.Random(1)
    words = """the a of and to in is it you that he was for on are with as his they at be this have from or one had by word
        but not what all were we when your can said there use an each which she do how their if will up other about
        out many then them these so some her would make like him into time has look two more write go see number no
        way could people my than first water been call who oil its now find long down day did get come made may part""".split()
    lines = [
        " ".join(rng.choice(words) for _ in range(rng.randint(4, 12))).capitalize() + rng.choice(".!?")
        for _ in range(300)
    ]
    return lines + SAMPLES * 3


def trained(model, pre_tokenizer, **options):
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.train_from_iterator(training_text(), trainers.BpeTrainer(show_progress=False, **options))
    return json.loads(tokenizer.to_str())["model"]


def alphabet(size):
    """The trainer breaks ties between characters by chance, so that the most frequent ones are chosen here."""
    counts = collections.Counter("".join(training_text()).replace(" ", "▁"))
    kept = sorted(counts, key=lambda c: (-counts[c], c))[:size]
    return {"initial_alphabet": kept, "limit_alphabet": size}


def make_models():
    bytes_model = trained(
        models.BPE(),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        vocab_size=500,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=12,
    )
    chars = trained(
        models.BPE(unk_token="<unk>"),
        None,
        vocab_size=620,
        special_tokens=["<unk>", "<s>", "</s>"],
        **alphabet(150),
        max_token_length=10,
    )
    space = "▁"
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(space), normalizers.Replace(" ", space)])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(space, "merged_with_next")
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    tokenizer.train_from_iterator(
        training_text(),
        trainers.BpeTrainer(show_progress=False, vocab_size=700, special_tokens=special, **alphabet(100)),
    )
    spm = json.loads(tokenizer.to_str())["model"]
    # The older form of merges is for one of them only: its tokens have no spaces.
    bytes_model["merges"] = [" ".join(m) for m in bytes_model["merges"]]
    return {"bytes": bytes_model, "chars": chars, "spm": spm}


def added(model, content, special, next_id, **flags):
    token = {
        "id": model["vocab"].get(content, next_id),
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": not special,
        "special": special,
    }
    token.update(flags)
    return token


def make_cases(m):
    part = lambda p: json.loads(p.__getstate__())
    n, p = normalizers, pre_tokenizers
    gpt2 = part(p.ByteLevel(add_prefix_space=False))
    contractions, letters = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)", r"|[^\r\n\p{L}\p{N}]?\p{L}+|"
    rest = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    llama3 = p.Sequence(
        [
            p.Split(Regex(contractions + letters + r"\p{N}{1,3}" + rest), "isolated"),
            p.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    qwen2 = p.Sequence(
        [
            p.Split(Regex(contractions + letters + r"\p{N}" + rest), "isolated"),
            p.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    cl100k = p.Sequence(
        [
            p.Split(
                Regex(
                    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
                ),
                "removed",
                True,
            ),
            p.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bos = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }
    both = {
        "type": "TemplateProcessing",
        "single": bos["single"] + [{"SpecialToken": {"id": "E", "type_id": 0}}],
        "pair": bos["pair"],
        "special_tokens": {**bos["special_tokens"], "E": {"id": "E", "ids": [2, 2], "tokens": ["</s>", "</s>"]}},
    }
    end = [added(m["bytes"], "<|end|>", True, 0)]
    odd = [
        added(m["bytes"], "<|end|>", True, 0, lstrip=True),
        added(m["bytes"], "<pad>", True, 500, lstrip=True, rstrip=True),
        added(m["bytes"], "mask", False, 501, single_word=True),
        added(m["bytes"], "the", False, 0),
        added(m["bytes"], "Mask", False, 502, normalized=False),
        added(m["bytes"], "<unk> <unk>", False, 503),
        added(m["bytes"], "<unk>", False, 504, rstrip=True),
    ]
    sp = [added(m["spm"], t, True, 0) for t in ("<unk>", "<s>", "</s>")]
    sentencepiece = part(n.Sequence([n.Prepend("▁"), n.Replace(" ", "▁")]))
    case = lambda name, model, normalizer=None, pre_tokenizer=None, added_tokens=(), post_processor=None, **options: {
        "name": name,
        "model": model,
        "options": options,
        "tokenizer": {
            "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer,
            "added_tokens": list(added_tokens),
            "post_processor": post_processor,
        },
    }
    cases = [
        case("gpt-2", "bytes", None, gpt2, end),
        case("prefix space", "bytes", None, part(p.ByteLevel(add_prefix_space=True)), end),
        case("no expression", "bytes", None, part(p.ByteLevel(add_prefix_space=False, use_regex=False)), end),
        case(
            "digits",
            "bytes",
            None,
            part(p.Sequence([p.Digits(individual_digits=True), p.ByteLevel(add_prefix_space=False)])),
            end,
        ),
        case(
            "digits together",
            "bytes",
            None,
            part(p.Sequence([p.Digits(individual_digits=False), p.ByteLevel(add_prefix_space=True)])),
            odd,
        ),
        case("llama 3", "bytes", None, part(llama3), end, None, ignore_merges=True),
        case("qwen 2", "bytes", part(n.NFC()), part(qwen2), end),
        case("cl100k", "bytes", None, part(cl100k), end),
        case("odd added tokens", "bytes", part(n.Lowercase()), gpt2, odd),
        case("odd added tokens, byte-level normalizer", "bytes", part(n.Sequence([n.NFD(), n.ByteLevel()])), None, odd),
        case("sentencepiece", "spm", sentencepiece, None, sp, bos),
        case(
            "sentencepiece, both ends",
            "spm",
            sentencepiece,
            None,
            sp,
            {
                "type": "Sequence",
                "processors": [
                    {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
                    both,
                ],
            },
        ),
        case("no fallback", "spm", sentencepiece, None, sp, None, byte_fallback=False, fuse_unk=False),
        case("fused unknown", "spm", sentencepiece, None, sp, None, byte_fallback=False),
        case("no unknown", "chars", None, None, (), None, unk_token=None),
    ]
    for scheme in ("always", "first", "never"):
        for apart in (True, False):
            cases.append(
                case(
                    f"metaspace {scheme} {apart}",
                    "spm",
                    None,
                    part(p.Metaspace(prepend_scheme=scheme, split=apart)),
                    sp,
                    bos,
                )
            )
    for behavior in ("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"):
        cases.append(case(f"string {behavior}", "chars", None, part(p.Split("a", behavior))))
        cases.append(
            case(f"expression {behavior}", "chars", part(n.NFKC()), part(p.Split(Regex(r"[\p{Lu}\s]|\d"), behavior)))
        )
        cases.append(
            case(f"inverted {behavior}", "chars", part(n.NFKD()), part(p.Split(Regex(r"\w+"), behavior, True)))
        )
    cases += [
        case("whitespace", "chars", part(n.NFD()), part(p.Whitespace())),
        case("whitespace split", "chars", part(n.Strip()), part(p.WhitespaceSplit())),
        case(
            "punctuation", "chars", part(n.Strip(left=False, right=True)), part(p.Punctuation("merged_with_previous"))
        ),
        case(
            "lowercase",
            "chars",
            part(n.Sequence([n.Lowercase(), n.Replace(Regex(r"\s+"), " "), n.Replace(Regex("^"), ">")])),
        ),
        case("scripts", "chars", part(n.Replace(Regex(r"\p{Han}|[\p{Hiragana}\p{^L}]|\W|\S$"), "a"))),
        case("empty matches", "chars", part(n.Replace(Regex("x*"), "-"))),
    ]
    return cases


def main():
    m = make_models()
    texts = [s.encode() for s in SAMPLES + NASTY] + [bytes.fromhex(h) for h in BROKEN]
    cases = make_cases(m)
    for case in cases:
        model = {**m[case["model"]], **case["options"]}
        tokenizer = Tokenizer.from_str(
            json.dumps(
                {
                    "version": "1.0",
                    "truncation": None,
                    "padding": None,
                    "decoder": None,
                    **case["tokenizer"],
                    "model": model,
                }
            )
        )
        case["ids"] = [tokenizer.encode(t.decode(errors="replace")).ids for t in texts]
    out = pathlib.Path(__file__).with_name("tokenizer.golden.json")
    head = json.dumps({"texts": [t.hex() for t in texts], "models": m}, ensure_ascii=False, separators=(",", ":"))[:-1]
    body = ",\n".join(json.dumps(c, ensure_ascii=False, separators=(",", ":")) for c in cases)
    out.write_text(f'{head},\n"cases":[\n{body}\n]}}\n')


if __name__ == "__main__":
    main()
