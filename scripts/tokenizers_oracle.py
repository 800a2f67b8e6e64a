#!/usr/bin/env python3
"""Cross-check internal/tokenizers against the PyPI package `tokenizers` (the reference).

Install the reference in a virtual environment first: pip install tokenizers==0.23.3

  tables OUT        write internal/tokenizers/ucd/tables.txt: the character classes, case map and
                    normalization classes as the reference applies them, read off by probing it with
                    every code point. Its parts use different Unicode versions (9.0 to 17.0), so no
                    single Unicode table reproduces it.
"""
import argparse

import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

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


def mapped(normalizer, prefix=""):
    """What a normalizer makes of each code point, each in a segment of its own."""
    points = [c for c in CODE_POINTS if c not in (0x01, 0x0A)]
    text = normalizer.normalize_str("\x01".join(prefix + chr(c) for c in points))
    parts = text.split("\x01")
    assert len(parts) == len(points)
    return list(zip(points, parts))


def after_letter(pre_tokenizer, wanted):
    text = "".join(" a" + chr(c) for c in CODE_POINTS if chr(c) not in " a")
    pieces = (p for p, _ in pre_tokenizer.pre_tokenize_str(text))
    return sorted({ord(p[-1]) for p in pieces if wanted(p)})


def write_tables(path):
    lines = [f"# Made by scripts/tokenizers_oracle.py from tokenizers {tokenizers.__version__}. Do not edit."]

    def add(name, code_points):
        lines.append(name + " " + " ".join(map(base36, runs(sorted(code_points)))))

    for category in CATEGORIES:
        add("gc." + category, matched_by(r"\p{%s}" % category))
    for script in SCRIPTS:
        add("script." + script, matched_by(r"\p{%s}" % script))
    add("onig.word", matched_by(r"\w"))
    add("onig.alphabetic", matched_by(r"\p{Alphabetic}"))
    add("regex.word", after_letter(pre_tokenizers.Whitespace(), lambda p: len(p) == 2 and p[0] == "a"))
    add("numeric", after_letter(pre_tokenizers.Digits(individual_digits=True), lambda p: len(p) == 1))
    add("punctuation", dropped_pieces(pre_tokenizers.Punctuation("removed")))
    bert = {"clean_text": False, "handle_chinese_chars": False, "strip_accents": False, "lowercase": False}
    add("bert.control", removed_by(normalizers.BertNormalizer(**{**bert, "clean_text": True}).normalize_str))
    accents = normalizers.BertNormalizer(**{**bert, "strip_accents": True})
    stripped = {c for c, part in mapped(accents) if part == ""}
    add("bert.nonspacing", stripped)
    add("mark", removed_by(normalizers.StripAccents().normalize_str))

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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    tables = commands.add_parser("tables")
    tables.add_argument("out")
    args = parser.parse_args()
    if args.command == "tables":
        write_tables(args.out)


if __name__ == "__main__":
    main()
