"""From raw book text to clean chapters of paragraphs, and from those to a tokenizer and token arrays."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

BOS, EOS, SYSTEM, USER, ASSISTANT, END = SPECIAL_TOKENS = (
    "<|bos|>",
    "<|eos|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
)

# Splits text before the merges: contractions, words with their leading space, up to three digits, runs of
# punctuation, and whitespace. The scheme is that of GPT-2 (Radford et al. 2019) as refined for Llama 3.
PRE_TOKENIZER = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_HEADING = re.compile(r"(?im)^\s*(chapter\b.*|volume\b.*|finis\.?|the end|epilogue|conclusion|by jane austen)\s*$")
_CHAPTER = re.compile(r"(?im)^\s*(?:chapter\b.*|epilogue)$")
_PLAIN = str.maketrans(
    {"“": '"', "”": '"', "‘": "'", "’": "'", "—": "--", "–": "-", "…": "...", "\u00a0": " ", "\ufeff": ""}
)
# Words of the time that a shipped model should not learn; a paragraph that holds one is left out.
_SLURS = re.compile(
    r"\b(?:nigg|negro|injun|squaw|chink|darkey|darkie|mars tom|japs?\b|half-breed|papist|jew\b|jews\b)", re.I
)
_PEOPLE_NAMED_PLAINLY_IN = "web"  # there the last two words are the plain name of a people


def clean_paragraph(block: str) -> str:
    """Unwrap one paragraph and reduce its typography to ASCII punctuation; empty if it is not running prose."""
    text = re.sub(r"\s+", " ", block.translate(_PLAIN)).strip()
    text = re.sub(r"[_*]|\[[^\]]*\]|\{[^}]*\}", "", text)
    text = re.sub(r" +([,.;:!?])", r"\1", text)
    text = re.sub(r"-{3,}", "--", text)
    letters = [c for c in text if c.isalpha()]
    if len(letters) < 6 or not re.search(r'[.!?"\')-]$', text):
        return ""
    if sum(c.isupper() for c in letters) > 0.3 * len(letters) or sum(c.isdigit() for c in text) > 0.1 * len(text):
        return ""
    return text


def chapters(key: str, raw: str) -> list[list[str]]:
    """Split a source's raw text into chapters, each a list of clean paragraphs."""
    out = []
    for chunk in _CHAPTER.split(raw):
        blocks = re.split(r"\n\s*\n", _HEADING.sub("", chunk))
        kept = [p for p in map(clean_paragraph, blocks) if p and not _unwanted(key, p)]
        if len(kept) >= 3:
            out.append(kept)
    return out


def _unwanted(key: str, paragraph: str) -> bool:
    """Return whether a paragraph holds a word that the model should not learn."""
    found = _SLURS.search(paragraph)
    return bool(found) and not (key == _PEOPLE_NAMED_PLAINLY_IN and found.group().lower().startswith("jew"))


def split_validation(books: dict[str, list[list[str]]]) -> tuple[dict, dict]:
    """Hold out every 30th chapter, from the tenth on, of every source for validation."""
    train, held = {}, {}
    for key, parts in books.items():
        train[key] = [c for i, c in enumerate(parts) if i % 30 != 9]
        held[key] = [c for i, c in enumerate(parts) if i % 30 == 9]
    return train, held


def train_tokenizer(texts: Iterator[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE tokenizer whose first ids are the special tokens; encoding prepends BOS."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRE_TOKENIZER), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return tokenizer


def encode_book(tokenizer: Tokenizer, book: list[list[str]]) -> tuple[np.ndarray, np.ndarray]:
    """Encode chapters to one id stream (each chapter ends with EOS) and the positions where a paragraph starts."""
    ids: list[int] = []
    starts: list[int] = []
    eos = tokenizer.token_to_id(EOS)
    for chapter in book:
        encoded = tokenizer.encode_batch(
            [p + ("\n\n" if i + 1 < len(chapter) else "") for i, p in enumerate(chapter)], add_special_tokens=False
        )
        for paragraph in encoded:
            starts.append(len(ids))
            ids.extend(paragraph.ids)
        ids.append(eos)
    return np.array(ids, dtype=np.uint16), np.array(starts, dtype=np.int32)


def save_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write arrays to one compressed .npz file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
