#!/usr/bin/env python3
"""Cross-check internal/tokenizers against the PyPI package `tokenizers` (the reference).

Go's side is the test TestOracle: go test ./internal/tokenizers -run Oracle -args -oracle DIR

Install the reference in a virtual environment first: pip install tokenizers==0.23.3

  tables OUT        write internal/tokenizers/ucd/tables.txt: the character classes, case map and
                    normalization classes as the reference applies them, read off by probing it with
                    every code point. Its parts use different Unicode versions (9.0 to 17.0), so no
                    single Unicode table reproduces it.
  train DIR         write small tokenizers of many kinds to DIR/NAME.json, trained on made-up text
  bench TEXT NAME…  compare speed on one thread: tokenizers NAME of ../shared/tokenizers, or files NAME.json, on the lines of the file
                    TEXT (short prompts) and on all of it (long text), the Go benchmarks in the same run
  mix DIR           put random components around the models of `train DIR`, as DIR/mix-N.json
  vectors DIR       write what the reference makes of random and adversarial text to DIR/NAME.jsonl, for every
                    DIR/NAME.json; --count says how many texts, --seed which ones
"""
import argparse
import base64
import gzip
import json
import os
import pathlib
import random
import re
import statistics
import struct
import subprocess
import time
import unicodedata

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
CATEGORIES = (
    "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co"
).split()
SCRIPTS = (
    "Arabic Armenian Bengali Bopomofo Common Cyrillic Devanagari Ethiopic Georgian Greek Gujarati Gurmukhi "
    "Han Hangul Hebrew Hiragana Inherited Kannada Katakana Khmer Lao Latin Malayalam Mongolian Myanmar "
    "Oriya Sinhala Tamil Telugu Thaana Thai Tibetan"
).split()
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def base36(n):
    text = ""
    while True:
        n, digit = divmod(n, 36)
        text = DIGITS[digit] + text
        if n == 0:
            return text


def runs(code_points):
    """Alternating gap and run lengths that describe a sorted set of code points."""
    numbers, position, i = [], 0, 0
    while i < len(code_points):
        j = i
        while j + 1 < len(code_points) and code_points[j + 1] == code_points[j] + 1:
            j += 1
        numbers += [code_points[i] - position, code_points[j] - code_points[i] + 1]
        position = code_points[j] + 1
        i = j + 1
    return numbers


def removed_by(transform):
    """The code points that a function from text to text drops."""
    kept = set(transform("".join(map(chr, CODE_POINTS))))
    return [c for c in CODE_POINTS if chr(c) not in kept]


def matched_by(pattern):
    return removed_by(normalizers.Replace(Regex(pattern), "").normalize_str)


def dropped_pieces(pre_tokenizer):
    return removed_by(lambda text: "".join(p for p, _ in pre_tokenizer.pre_tokenize_str(text)))


def mapped(normalizer, prefix="", separator="\x01"):
    """What a normalizer makes of each code point, each in a segment of its own."""
    points = [c for c in CODE_POINTS if chr(c) != separator]
    text = normalizer.normalize_str(separator.join(prefix + chr(c) for c in points))
    parts = text.split(separator)
    assert len(parts) == len(points)
    return list(zip(points, parts))


def after_letter(pre_tokenizer, wanted):
    text = "".join(" a" + chr(c) for c in CODE_POINTS if c != 0x20)
    pieces = (p for p, _ in pre_tokenizer.pre_tokenize_str(text))
    return {ord(p[-1]) for p in pieces if wanted(p)}


def script_classes():
    """The classes of code points between which the UnicodeScripts pre-tokenizer splits."""
    cut = pre_tokenizers.UnicodeScripts().pre_tokenize_str

    def apart(a, b):
        return len(cut(chr(a) + chr(b))) == 2

    classes, last = [], None
    for c in CODE_POINTS:
        if not apart(ord("a"), c) and not apart(ord("я"), c):
            continue  # of no script
        if last is None or apart(last[0], c):
            last = next((found for found in classes if not apart(found[0], c)), None)
            if last is None:
                last = []
                classes.append(last)
        last.append(c)
    return classes


def precompiled(rules):
    """A sentencepiece character map (a Darts double array and the replacements) of rules from text to text."""
    root = {}
    for source in rules:
        node = root
        for byte in source.encode():
            node = node.setdefault(byte, {})
        node[0] = rules[source]
    units, used, replacements = {}, {0}, bytearray()
    todo = [(0, root, 0)]
    while todo:
        position, node, label = todo.pop()
        base = next(b for b in range(1, 1 << 20) if not any(b ^ child in used for child in node) and (position ^ b) < 1 << 21)
        used.update(base ^ child for child in node)
        units[position] = (position ^ base) << 10 | (0 in node) << 8 | label
        for child, below in node.items():
            if child == 0:
                units[base] = 1 << 31 | len(replacements)
                replacements += below.encode() + b"\0"
            else:
                todo.append((base ^ child, below, child))
    size = (max(units) | 0xFF) + 1
    array = [units.get(i, 0) for i in range(size)]
    return struct.pack(f"<I{size}I", 4 * size, *array) + bytes(replacements)


def grapheme_classes():
    """What matters of grapheme cluster breaking: who joins what is before, what is after, and pictographs.

    A cluster of less than six bytes that begins with a mapped character is replaced as a whole."""
    charsmap = normalizers.Precompiled(precompiled({"a": "X", "©": "Y"})).normalize_str
    extend = {c for c in CODE_POINTS if charsmap("a" + chr(c)) == "X"}
    prepend = {c for c in CODE_POINTS if charsmap(chr(c) + "a\u0301").endswith("X\u0301")}
    pictograph = {c for c in CODE_POINTS if "\u200d" in charsmap("©\u200d" + chr(c)) and c != 0x200D} - extend
    return extend, prepend, pictograph


def write_tables(path):
    lines = [f"# Made by scripts/tokenizers_oracle.py from tokenizers {tokenizers.__version__}. Do not edit."]

    def add(name, code_points):
        lines.append(name + " " + " ".join(map(base36, runs(sorted(code_points)))))

    for category in CATEGORIES:
        add("gc." + category, matched_by(r"\p{%s}" % category))
    for script in SCRIPTS:
        add("script." + script, matched_by(r"\p{%s}" % script))
    add("onig.word", matched_by(r"\w"))
    add("onig.posixword", matched_by("[[:word:]]"))
    for name in ("Emoji", "Extended_Pictographic"):
        add("onig." + name.lower().replace("_", ""), matched_by(r"\p{%s}" % name))
    add("onig.alphabetic", matched_by(r"\p{Alphabetic}"))
    add("regex.word", after_letter(pre_tokenizers.Whitespace(), lambda p: len(p) == 2 and p[0] == "a"))
    add("numeric", after_letter(pre_tokenizers.Digits(individual_digits=True), lambda p: len(p) == 1))
    add("punctuation", dropped_pieces(pre_tokenizers.Punctuation("removed")))
    bert = {"clean_text": False, "handle_chinese_chars": False, "strip_accents": False, "lowercase": False}
    cleaner = normalizers.BertNormalizer(**{**bert, "clean_text": True})
    add("bert.control", [c for c, part in mapped(cleaner, separator="|") if part == ""])
    accents = normalizers.BertNormalizer(**{**bert, "strip_accents": True})
    stripped = {c for c, part in mapped(accents) if part == ""}
    add("bert.nonspacing", stripped)
    add("mark", removed_by(normalizers.StripAccents().normalize_str))

    for i, members in enumerate(script_classes()):
        add(f"scripts.{i}", members)

    extend, prepend, pictograph = grapheme_classes()
    add("grapheme.extend", extend)
    add("grapheme.prepend", prepend)
    add("grapheme.pictograph", pictograph)

    decomposed = {c for c, part in mapped(normalizers.NFKD()) if part != chr(c)}
    reordered = {c for c, part in mapped(normalizers.NFD(), "\u0345") if part[-1] == "\u0345"}
    add("normalization", decomposed | reordered | {0x0345})

    lower = [(c, ord(part)) for c, part in mapped(normalizers.Lowercase()) if len(part) == 1 and part != chr(c)]
    words, position = [], 0
    for c, target in lower:
        delta = target - c
        words += [base36(c - position), ("-" if delta < 0 else "") + base36(abs(delta))]
        position = c
    lines.append("lower " + " ".join(words))
    with open(path, "w") as out:
        out.write("\n".join(lines) + "\n")


WORDS = (
    "the quick brown fox jumps over lazy dog I'm you're they've we'll he'd can't it's DON'T IT'S WE'LL I'VE O'Neill "
    "naïve café Ünïcödé straße Straße ΣΊΣΥΦΟΣ Σίσυφος İstanbul ǅungla привет Мир שלום مرحبا नमस्ते ไทยภาษา 你好世界 こんにちは カタカナ "
    "한국어 ភាសា 𐐀𐐨 ﬁne ① ½ Ⅷ ² 12345 3.14159 1,000,000 0x1F user@example.com https://example.com/a?b=c#d "
    "int main(){return 0;} def f(x):\n\treturn x snake_case camelCase HTTPServer iPhone XMLHttpRequest e.g. don't 'quoted' "
    "\"double\" --flag [MASK] [UNK] <s> </s> <unk> <|endoftext|> <|im_start|> <0x0A> <0xE4> ▁ ▁▁ Ġ Ċ ## ##ing"
).split(" ")
EMOJI = ["😀", "👩\u200d💻", "👨\u200d👩\u200d👧\u200d👦", "🏳️\u200d🌈", "🇩🇪", "👍🏽", "🦙", "❤️", "✨", "™️", "©\u200d®"]
SPACES = [" ", "  ", "   ", "\t", "\n", "\r\n", "\n\n", "\r", "\u00a0", "\u3000", "\u2028", "\u0085", "\u200b", "\ufeff", " \n ", "\v", "\f"]
MARKS = ["\u0301", "\u0308", "\u0327", "\u0323", "\u20dd", "\u0903", "\u0e31", "\u3099", "\u0345", "\u1161", "\u11a8", "\u05b0", "\u0338"]
RANGES = [
    (0x20, 0x7E), (0x00, 0x1F), (0x7F, 0xFF), (0x100, 0x24F), (0x250, 0x36F), (0x370, 0x52F), (0x530, 0x6FF), (0x700, 0xDFF),
    (0xE00, 0x10FF), (0x1100, 0x11FF), (0x1E00, 0x1FFF), (0x2000, 0x206F), (0x2070, 0x218F), (0x2190, 0x2BFF), (0x2E80, 0x30FF),
    (0x3100, 0x33FF), (0x4E00, 0x9FFF), (0xA000, 0xABFF), (0xAC00, 0xD7A3), (0xE000, 0xF8FF), (0xF900, 0xFAFF), (0xFB00, 0xFDFF),
    (0xFE00, 0xFFFF), (0x10000, 0x10FFF), (0x11000, 0x11FFF), (0x1D000, 0x1D7FF), (0x1F000, 0x1FAFF), (0x20000, 0x2FA1F),
    (0xE0000, 0xE01EF), (0x0, 0x10FFFF),
]


def random_character(rng):
    low, high = rng.choice(RANGES)
    while True:
        c = rng.randint(low, high)
        if not 0xD800 <= c < 0xE000:
            return chr(c)


def fragment(rng, tokens, added):
    """One building block of a text."""
    kind = rng.randrange(16)
    if kind < 4:
        word = rng.choice(WORDS)
        return rng.choice([word, word, word.upper(), word.capitalize(), " " + word])
    if kind == 4:
        return random_character(rng) * rng.choice([1, 1, 2, 5])
    if kind == 5:
        return "".join(random_character(rng) for _ in range(rng.randint(1, 6)))
    if kind == 6:
        return rng.choice(SPACES) * rng.choice([1, 1, 1, 2, 3, 17])
    if kind == 7:
        return rng.choice(EMOJI)
    if kind == 8:
        return rng.choice("aeiouABcß中가 \u0345") + "".join(rng.choice(MARKS) for _ in range(rng.choice([1, 2, 3, 40])))
    if kind == 9:
        return "".join(rng.choice("0123456789٣②") for _ in range(rng.randint(1, 12)))
    if kind == 10:
        return "'" + rng.choice(["s", "t", "re", "ve", "m", "ll", "d", "S", "T", "RE", "Ve", "M", "LL", "D", "ſ", "x", "lL"])
    if kind == 11 and added:
        token = rng.choice(added)
        return rng.choice([token, token, " " + token + " ", token[:-1], token[1:], token.upper(), "x" + token + "y", token * 2])
    if kind == 12:
        return rng.choice("!?.,;:-_#$%&()*+/<=>@[\\]^`{|}~\"'") * rng.choice([1, 1, 2, 3, 10])
    if kind == 13:
        return rng.choice(SPACES) + rng.choice(WORDS) + rng.choice(SPACES)
    if kind == 14 and rng.randrange(30) == 0:
        return rng.choice(["a", "A", " ", "0", "中", "é", "\u0301", "\n", "▁", "!"]) * rng.randint(30, 400)
    return rng.choice(tokens)


def random_text(rng, tokens, added):
    """A text and, if it stands for bytes that are not valid UTF-8, those bytes."""
    text = "".join(fragment(rng, tokens, added) for _ in range(rng.choice([0, 1, 1, 2, 3, 5, 8, 13, 25])))
    if rng.randrange(12) or not text:
        return text, None
    data = bytearray(text.encode())
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        if rng.randrange(2) and at < len(data):
            del data[at]
        else:
            data[at:at] = bytes(rng.choice([0x80, 0xBF, 0xC0, 0xC3, 0xE2, 0xED, 0xF0, 0xF4, 0xFF, 0xA0]) for _ in range(rng.randint(1, 3)))
    return data.decode("utf-8", "replace"), bytes(data)


def attempt(function, argument):
    """The result, or None where the reference fails; its panics are no ordinary exceptions."""
    try:
        return function(argument)
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit, MemoryError)):
            raise
        return None


def all_or_each(batch, single, arguments):
    """The results of a batch or, if it fails, of each argument on its own."""
    results = attempt(batch, arguments)
    return [attempt(single, a) for a in arguments] if results is None else results


def write_vectors(directory, count, seed, only):
    for path in sorted(pathlib.Path(directory).glob("*.json")):
        if only and path.stem not in only:
            continue
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_padding()
        vocabulary = sorted(tokenizer.get_vocab(with_added_tokens=True).items(), key=lambda item: item[1])
        tokens = [token.replace("Ġ", " ").replace("▁", " ") for token, _ in vocabulary]
        ids = [i for _, i in vocabulary]
        byte_ids = [i for token, i in vocabulary if len(token) == 6 and token.startswith("<0x")] or ids
        added = [t.content for t in tokenizer.get_added_tokens_decoder().values()]
        rng = random.Random(f"{seed} {path.stem}")
        with open(path.with_suffix(".jsonl"), "w") as out:
            for start in range(0, count, 1000):
                texts = [random_text(rng, tokens, added) for _ in range(min(1000, count - start))]
                encodings = []
                for special in (False, True):
                    encodings.append(all_or_each(
                        lambda ts: tokenizer.encode_batch(ts, add_special_tokens=special),
                        lambda t: tokenizer.encode(t, add_special_tokens=special), [t for t, _ in texts]))
                known = [i for i, pair in enumerate(zip(*encodings)) if None not in pair]
                texts = [texts[i] for i in known]
                plain, special = ([rows[i].ids for i in known] for rows in encodings)
                mixed = []
                for row in special:
                    row = list(row)
                    for _ in range(rng.choice([0, 0, 1, 3])):
                        row.insert(rng.randint(0, len(row)), rng.choice(rng.choice([ids, byte_ids, ids[:300]])))
                    mixed.append(row)
                decoded, skipped = (all_or_each(
                    lambda rows: tokenizer.decode_batch(rows, skip_special_tokens=skip),
                    lambda row: tokenizer.decode(row, skip_special_tokens=skip), mixed) for skip in (False, True))
                for (text, data), a, b, m, d, k in zip(texts, plain, special, mixed, decoded, skipped):
                    if d is None or k is None:
                        continue
                    row = {"plain": a, "special": b, "ids": m, "decoded": d, "skipped": k}
                    row.update({"text": text} if data is None else {"bytes": data.hex()})
                    out.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")
        print(path.stem, count, flush=True)


GPT4 = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
CL100K = r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"""
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
TAIL = r"""| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
LETTERS = [r"[^\r\n\p{L}\p{N}]?" + UPPER + "*" + LOWER + "+", r"[^\r\n\p{L}\p{N}]?" + UPPER + "+" + LOWER + "*"]
O200K = CONTRACTION.join(LETTERS[:1] + ["|" + LETTERS[1]]) + CONTRACTION + r"|\p{N}{1,3}" + TAIL
TEKKEN = "|".join(LETTERS) + r"|\p{N}" + TAIL
DEEPSEEK_V3 = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


def byte_level(*before, **options):
    return pre_tokenizers.Sequence([*before, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False, **options)])


def corpus(lines=3000, last=0x10FFFF):
    """Lines of made-up text, without code points above last."""
    rng = random.Random(5)
    text = ("".join(fragment(rng, WORDS, []) for _ in range(rng.randint(1, 12))) for _ in range(lines))
    return ["".join(c for c in line if ord(c) <= last) for line in text]


def trained(model, trainer, pre_tokenizer, normalizer=None, decoder=None, post=None, added=(), text=None):
    tokenizer = Tokenizer(model)
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre_tokenizer:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.train_from_iterator(text or corpus(), trainer)
    if decoder:
        tokenizer.decoder = decoder
    if post:
        tokenizer.post_processor = post(tokenizer)
    for token in added:
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
    return tokenizer


def bytes_bpe(pre_tokenizer, size=1200, special=("<|endoftext|>", "<|im_start|>"), model=None, **more):
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(special), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    more.setdefault("decoder", decoders.ByteLevel())
    return trained(model or models.BPE(), trainer, pre_tokenizer, **more)


def template(text, *names):
    return lambda t: processors.TemplateProcessing(
        single=text, pair="$A $B", special_tokens=[(name, t.token_to_id(name)) for name in names])


def spm_bpe(normalizer, pre_tokenizer, decoder, size=1000, byte_tokens=True, **more):
    special = ["<unk>", "<s>", "</s>"] + (["<0x%02X>" % b for b in range(256)] if byte_tokens else [])
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, limit_alphabet=150, show_progress=False)
    model = models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=byte_tokens)
    tokenizer = trained(model, trainer, pre_tokenizers.Metaspace(split=True), decoder=decoder, **more)
    tokenizer.pre_tokenizer = pre_tokenizer  # trained on words, used on whole texts, like the models of this kind
    if normalizer:
        tokenizer.normalizer = normalizer
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if not t["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(state))


def llama_parts():
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return normalizer, decoder


ADDED = [
    AddedToken("<special>", special=True), AddedToken("<left>", lstrip=True, special=True),
    AddedToken("<right>", rstrip=True, special=True), AddedToken("<both>", lstrip=True, rstrip=True, normalized=True),
    AddedToken("word", single_word=True), AddedToken("Added Token", normalized=True), AddedToken("don't", normalized=False),
    AddedToken("\n\n", normalized=False), AddedToken("  ", normalized=False), AddedToken("naïve", normalized=True),
    AddedToken("<|im", normalized=False), AddedToken("ÀB", normalized=True, lstrip=True),
]


def small_tokenizers():
    """Pairs of a name and a function that makes the tokenizer."""
    make = {
        "bytes-gpt2": lambda: bytes_bpe(pre_tokenizers.ByteLevel(add_prefix_space=False), size=600),
        "bytes-gpt2-prefix": lambda: bytes_bpe(pre_tokenizers.ByteLevel(add_prefix_space=True), added=ADDED,
            post=lambda t: processors.RobertaProcessing(("<|im_start|>", 1), ("<|endoftext|>", 0))),
        "bytes-gpt4": lambda: bytes_bpe(byte_level(split(GPT4)), normalizer=normalizers.NFC(), added=ADDED),
        "bytes-cl100k": lambda: bytes_bpe(byte_level(split(CL100K, "removed", True)), model=models.BPE(ignore_merges=True)),
        "bytes-o200k": lambda: bytes_bpe(byte_level(split(O200K)), model=models.BPE(ignore_merges=True),
            post=template("<|im_start|> $A <|endoftext|>", "<|im_start|>", "<|endoftext|>")),
        "bytes-tekken": lambda: bytes_bpe(byte_level(split(TEKKEN)), added=ADDED),
        "bytes-deepseek-v3": lambda: bytes_bpe(byte_level(split(r"\p{N}{1,3}"), split("[一-龥\u3040-ゟ゠-ヿ]+"), split(DEEPSEEK_V3))),
        "bytes-deepseek-coder": lambda: bytes_bpe(byte_level(split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"),
            split("[一-龥ࠀ-一가-\ud7ff]+"), pre_tokenizers.Digits(individual_digits=True))),
        "bytes-falcon": lambda: bytes_bpe(pre_tokenizers.Sequence([pre_tokenizers.Punctuation("contiguous"),
            pre_tokenizers.ByteLevel(add_prefix_space=False), pre_tokenizers.Digits(False), split("[0-9][0-9][0-9]")])),
        "bytes-starcoder": lambda: bytes_bpe(pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)])),
        "bytes-normalizer": lambda: bytes_bpe(split(r" ?[^\s]+|\s+"), normalizer=normalizers.ByteLevel(), added=ADDED),
        "bytes-bert-processing": lambda: bytes_bpe(byte_level(split(r"\w+|[^\w\s]+|\s+", "merged_with_next")),
            post=lambda t: processors.Sequence([processors.ByteLevel(), processors.BertProcessing(("<|im_start|>", 1), ("<|endoftext|>", 0))])),
        "bytes-lookbehind": lambda: bytes_bpe(byte_level(split(r"(?<=\p{N})(?=(?:\p{N}{3})+(?!\p{N}))", "isolated"), split(r"(?:\r\n|\s)+", "merged_with_previous"))),
        "spm-gemma": lambda: spm_bpe(normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", "merged_with_previous"),
            decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]),
            added=[AddedToken("\n", normalized=False), AddedToken("\n\n", normalized=False), AddedToken("▁▁", normalized=False), AddedToken("<html>", normalized=False)],
            post=template("<s> $A", "<s>")),
        "spm-metaspace-first": lambda: spm_bpe(None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False), llama_parts()[1], added=ADDED),
        "spm-metaspace-never": lambda: spm_bpe(normalizers.NFKC(), pre_tokenizers.Metaspace(prepend_scheme="never"), decoders.Metaspace(prepend_scheme="never"), byte_tokens=False),
        "bpe-suffix": lambda: trained(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"),
            trainers.BpeTrainer(vocab_size=700, special_tokens=["<unk>"], end_of_word_suffix="</w>", limit_alphabet=100, show_progress=False),
            pre_tokenizers.BertPreTokenizer(), normalizer=normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase(), normalizers.StripAccents()]), decoder=decoders.BPEDecoder("</w>")),
        "bpe-prefix": lambda: trained(models.BPE(unk_token="<unk>", continuing_subword_prefix="##"),
            trainers.BpeTrainer(vocab_size=700, special_tokens=["<unk>"], continuing_subword_prefix="##", limit_alphabet=100, show_progress=False),
            pre_tokenizers.Whitespace(), normalizer=normalizers.Strip(), decoder=decoders.WordPiece("##", True)),
        "wordpiece-bert": lambda: trained(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=20),
            trainers.WordPieceTrainer(vocab_size=900, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], limit_alphabet=200, show_progress=False),
            pre_tokenizers.BertPreTokenizer(), normalizer=normalizers.BertNormalizer(), decoder=decoders.WordPiece(), added=ADDED,
            post=lambda t: processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))),
        "wordpiece-cased": lambda: trained(models.WordPiece(unk_token="[UNK]"),
            trainers.WordPieceTrainer(vocab_size=900, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False),
            pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("merged_with_previous"), pre_tokenizers.FixedLength(7)]),
            normalizer=normalizers.BertNormalizer(strip_accents=True, lowercase=False, handle_chinese_chars=False), decoder=decoders.WordPiece(cleanup=False)),
        "wordlevel": lambda: trained(models.WordLevel(unk_token="<unk>"),
            trainers.WordLevelTrainer(vocab_size=800, special_tokens=["<unk>"], show_progress=False),
            pre_tokenizers.Sequence([pre_tokenizers.CharDelimiterSplit("a"), pre_tokenizers.UnicodeScripts(), pre_tokenizers.Whitespace()]),
            normalizer=normalizers.Sequence([normalizers.Nmt(), normalizers.NFKD()])),
    }
    for name, pattern in {"metaspace": "▁", "t5": "▁"}.items():
        make["unigram-" + name] = lambda name=name: trained(models.Unigram(),
            trainers.UnigramTrainer(vocab_size=700, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False),
            pre_tokenizers.Metaspace() if name == "t5" else pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]),
            normalizer=normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]), decoder=decoders.Metaspace(), added=ADDED,
            post=template("$A </s>", "</s>"), text=corpus(last=0x24F))
    def unigram_bytes():
        state = json.loads(make["unigram-t5"]().to_str())
        state["model"]["byte_fallback"] = True
        state["model"]["vocab"] += [["<0x%02X>" % b, -20.0] for b in range(256)]
        state["added_tokens"] = state["added_tokens"][:3]
        state["decoder"] = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}]}
        return Tokenizer.from_str(json.dumps(state))
    make["unigram-bytes"] = unigram_bytes
    rules = {chr(c): unicodedata.normalize("NFKC", chr(c)) for c in CODE_POINTS if c < 0x3400 and unicodedata.normalize("NFKC", chr(c)) != chr(c)}
    rules.update({"e\u0301": "é", "a\u0308": "ä", "\r\n": " ", "\n": " ", "\t": " ", "\u200b": " ", "\u00ad": "", "©": "(c)", "A": "a", "ß": "ss", "\u0600": "#"})
    make["unigram-precompiled"] = lambda: trained(models.Unigram(),
        trainers.UnigramTrainer(vocab_size=700, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False),
        pre_tokenizers.Metaspace(), normalizer=normalizers.Precompiled(precompiled(rules)), decoder=decoders.Metaspace(), text=corpus(last=0x24F))
    def llama():
        normalizer, decoder = llama_parts()
        return spm_bpe(normalizer, None, decoder, added=ADDED[:5], post=template("<s> $A", "<s>"))
    make["spm-llama"] = llama
    def truncated():
        tokenizer = make["bytes-gpt4"]()
        tokenizer.post_processor = template("<|im_start|> $A <|endoftext|>", "<|im_start|>", "<|endoftext|>")(tokenizer)
        tokenizer.enable_truncation(9, direction="left")
        return tokenizer
    make["bytes-truncated"] = truncated
    return make


PATTERNS = [GPT4, CL100K, O200K, TEKKEN, DEEPSEEK_V3, r"\s?\p{L}+", r"\p{N}{1,3}", r"\w+|[^\w\s]+", r"(?:\r\n|\s)+", r"[aeiou]", r"\b", r"^|$",
            r"a*", r"(?i:the|QU)", r"(?<=[a-z])(?=[A-Z])", r"[[:punct:]]", r"[^[:alpha:]\s]+?", r"\p{Han}|\p{Script=Han}?", r".", r"(?m:.)\n", r"\h{2,}"]
BEHAVIORS = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]


def random_normalizer(rng):
    pattern = rng.choice([{"String": rng.choice([" ", "a", "  ", "▁", "e\u0301"])}, {"Regex": rng.choice(PATTERNS)}])
    flag = lambda: rng.random() < 0.5
    return rng.choice([
        {"type": rng.choice(["NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt"])},
        {"type": "Strip", "strip_left": flag(), "strip_right": flag()},
        {"type": "Replace", "pattern": pattern, "content": rng.choice(["", " ", "▁", "xy"])},
        {"type": "Prepend", "prepend": rng.choice(["▁", " ", "ab"])},
        {"type": "BertNormalizer", "clean_text": flag(), "handle_chinese_chars": flag(), "strip_accents": rng.choice([None, True, False]), "lowercase": flag()},
    ])


def random_pre_tokenizer(rng):
    pattern = rng.choice([{"String": rng.choice([" ", "a", "the", "\n"])}, {"Regex": rng.choice(PATTERNS)}])
    flag = lambda: rng.random() < 0.5
    return rng.choice([
        {"type": rng.choice(["Whitespace", "WhitespaceSplit", "BertPreTokenizer", "UnicodeScripts"])},
        {"type": "Split", "pattern": pattern, "behavior": rng.choice(BEHAVIORS), "invert": flag()},
        {"type": "Split", "pattern": pattern, "behavior": rng.choice(BEHAVIORS), "invert": flag()},
        {"type": "Punctuation", "behavior": rng.choice(BEHAVIORS)},
        {"type": "Digits", "individual_digits": flag()},
        {"type": "Metaspace", "replacement": rng.choice("▁_"), "prepend_scheme": rng.choice(["first", "always", "never"]), "split": flag()},
        {"type": "CharDelimiterSplit", "delimiter": rng.choice(" ae")},
        {"type": "FixedLength", "length": rng.randint(1, 9)},
        {"type": "ByteLevel", "add_prefix_space": flag(), "trim_offsets": flag(), "use_regex": flag()},
    ])


def random_decoder(rng):
    pattern = rng.choice([{"String": rng.choice([" ", "a", "▁", "##", "Ġ"])}, {"Regex": rng.choice(PATTERNS)}])
    flag = lambda: rng.random() < 0.5
    return rng.choice([
        {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        {"type": "Strip", "content": rng.choice(" ae▁"), "start": rng.randint(0, 3), "stop": 0},
        {"type": "Replace", "pattern": pattern, "content": rng.choice(["", " ", "xy"])},
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": rng.choice(["first", "always", "never"]), "split": flag()},
        {"type": "WordPiece", "prefix": "##", "cleanup": flag()}, {"type": "BPEDecoder", "suffix": rng.choice(["</w>", "a"])},
        {"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": flag()},
    ])


def random_sequence(rng, make, name):
    """Nothing, one component or several."""
    parts = [make(rng) for _ in range(rng.choice([0, 1, 1, 2, 3]))]
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else {"type": "Sequence", name: parts}


def mix(directory, count, seed):
    rng = random.Random(f"mix {seed}")
    bases = [p for p in sorted(pathlib.Path(directory).glob("*.json")) if not p.stem.startswith("mix-")]
    made = 0
    while made < count:
        state = json.loads(rng.choice(bases).read_text())
        state["normalizer"] = random_sequence(rng, random_normalizer, "normalizers")
        state["pre_tokenizer"] = random_sequence(rng, random_pre_tokenizer, "pretokenizers")
        state["decoder"] = random_sequence(rng, random_decoder, "decoders")
        for token in state["added_tokens"]:
            for flag in ("single_word", "lstrip", "rstrip", "normalized", "special"):
                if rng.random() < 0.1:
                    token[flag] = not token[flag]
        if state["model"]["type"] == "BPE":
            for flag in ("fuse_unk", "byte_fallback", "ignore_merges"):
                state["model"][flag] = rng.random() < 0.5
        if state["model"]["type"] in ("WordPiece", "WordLevel") and state["model"]["unk_token"] not in state["model"]["vocab"]:
            continue
        text = json.dumps(state, ensure_ascii=False)
        try:
            Tokenizer.from_str(text)
        except Exception:
            continue
        (pathlib.Path(directory) / f"mix-{made}.json").write_text(text)
        made += 1


def train(directory, only):
    for name, make in small_tokenizers().items():
        if not only or name in only:
            make().save(str(pathlib.Path(directory) / (name + ".json")), pretty=False)
            print(name, flush=True)


def seconds(function, runs):
    """The median time of some runs, after one that warms up."""
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def bench(path, names, runs):
    os.environ.update(TOKENIZERS_PARALLELISM="false", GOMAXPROCS="1")
    root = pathlib.Path(__file__).resolve().parent.parent
    text = pathlib.Path(path).read_text()
    prompts = [line for line in text.splitlines() if len(line) >= 40][:1000]
    names = [str(pathlib.Path(name).resolve()) if name.endswith(".json") else name for name in names]
    command = ["go", "test", "./internal/tokenizers", "-run", "^$", "-bench", "Encode", f"-count={runs}", "-benchtime=300ms",
               "-args", "-text", str(pathlib.Path(path).resolve()), "-tokenizers", ",".join(names)]
    output = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    print(f"{'':24}{'PyPI encode':>14}{'PyPI batch_fast':>17}{'Go':>10}{'ratio':>15}")
    for name in names:
        file = root.parent / "shared" / "tokenizers" / name / "tokenizer.json"
        if name.endswith(".json"):
            file, name = pathlib.Path(name), pathlib.Path(name).stem
        data = file.read_bytes() if file.exists() else gzip.open(str(file) + ".gz").read()
        tokenizer = Tokenizer.from_str(data.decode())
        for kind, texts in (("long", [text]), ("short", prompts)):
            plain = seconds(lambda: [tokenizer.encode(t, add_special_tokens=False) for t in texts], runs)
            fast = seconds(lambda: tokenizer.encode_batch_fast(texts, add_special_tokens=False), runs)
            found = re.findall(rf"^BenchmarkEncode/{re.escape(name)}/{kind}\S*\s+\d+\s+([\d.]+) ns/op", output, re.M)
            ours = statistics.median(map(float, found)) / 1e9
            print(f"{name:18}{kind:6}{plain * 1e3:11.2f} ms{fast * 1e3:14.2f} ms{ours * 1e3:7.2f} ms"
                  f"{plain / ours:6.1f}x {fast / ours:5.1f}x")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    tables = commands.add_parser("tables")
    tables.add_argument("out")
    speed = commands.add_parser("bench")
    speed.add_argument("text")
    speed.add_argument("names", nargs="+")
    speed.add_argument("--runs", type=int, default=5)
    small = commands.add_parser("train")
    small.add_argument("dir")
    small.add_argument("--only", nargs="*", help="names of the tokenizers to make")
    mixed = commands.add_parser("mix")
    mixed.add_argument("dir")
    mixed.add_argument("--count", type=int, default=100)
    mixed.add_argument("--seed", type=int, default=1)
    vectors = commands.add_parser("vectors")
    vectors.add_argument("dir")
    vectors.add_argument("--count", type=int, default=10_000)
    vectors.add_argument("--seed", type=int, default=1)
    vectors.add_argument("--only", nargs="*", help="names of the tokenizers to run")
    args = parser.parse_args()
    if args.command == "tables":
        write_tables(args.out)
    elif args.command == "bench":
        bench(args.text, args.names, args.runs)
    elif args.command == "train":
        train(args.dir, args.only)
    elif args.command == "mix":
        mix(args.dir, args.count, args.seed)
    elif args.command == "vectors":
        write_vectors(args.dir, args.count, args.seed, args.only)


if __name__ == "__main__":
    main()
