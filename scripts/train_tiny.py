#!/usr/bin/env python3
"""Make troupe-tiny, the small model that ships with Troupe, from public-domain text: ``fetch``, ``prepare``, ``train``.

    python3 scripts/train_tiny.py fetch                     # download the packages, take their text out (Debian)
    python3 scripts/train_tiny.py prepare                   # clean it, train the tokenizer, make chat examples
    python3 scripts/train_tiny.py train --out OUT           # train (one GPU: minutes; needs nothing but prepare's data)
    python3 scripts/train_tiny.py train --out OUT --recipe polish --start OUT/deep-words
    python3 scripts/train_tiny.py golden --model OUT/polish --out internal/defaultmodel/testdata
    python3 scripts/train_tiny.py card --model OUT/polish   # write OUT/polish/MODEL_CARD.md from the run's report

Needs: tokenizers, numpy; torch and safetensors to train; transformers to write samples and goldens.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

WORK = Path(__file__).resolve().parent.parent / ".cache" / "tiny"


def fetch(args: argparse.Namespace) -> None:
    """Download every source's package and write its raw text to WORK/text."""
    from tiny import sources

    folder = args.work / "text"
    folder.mkdir(parents=True, exist_ok=True)
    for source in sources.SOURCES:
        text = sources.fetch(source, args.work / "downloads")
        (folder / f"{source.key}.txt").write_text(text, encoding="utf-8")
        print(f"{source.key}: {len(text.encode())} bytes from {source.package.name} {source.package.version}")


def prepare(args: argparse.Namespace) -> None:
    """Clean the texts, train the tokenizer, and write token arrays and chat rows to WORK/data."""
    from tiny import chat, corpus, sources

    folder = args.work / "data"
    folder.mkdir(parents=True, exist_ok=True)
    read = {s.key: (args.work / "text" / f"{s.key}.txt").read_text(encoding="utf-8") for s in sources.SOURCES}
    train, held = corpus.split_validation({key: corpus.chapters(key, raw) for key, raw in read.items()})
    paragraphs = (p + "\n\n" for book in train.values() for chapter in book for p in chapter)
    tokenizer = corpus.train_tokenizer(paragraphs, args.vocab)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    arrays, stats = {}, {"vocab": tokenizer.get_vocab_size(), "sources": {}}
    for key in train:
        for part, books in (("train", train), ("held", held)):
            ids, starts = corpus.encode_book(tokenizer, books[key])
            arrays[f"{key}.{part}"], arrays[f"{key}.{part}.starts"] = ids, starts
            size = sum(len(p.encode()) + 2 for c in books[key] for p in c)
            stats["sources"].setdefault(key, {})[part] = {
                "bytes": size,
                "tokens": len(ids),
                "chapters": len(books[key]),
            }
    corpus.save_arrays(folder / "books.npz", **arrays)
    authors = {s.key: s.author for s in sources.SOURCES}
    rows = {}
    for part, books, count, fixed in (
        ("train", train, args.dialogues, 0.08),
        ("held", held, 600, 0.08),
        ("fixed", train, 2000, 1.0),
    ):
        rows[part] = chat.encode_dialogues(tokenizer, chat.dialogues(books, authors, count, len(part), fixed), args.row)
    corpus.save_arrays(
        folder / "chat.npz",
        **{f"{p}.{n}": a for p, r in rows.items() for n, a in zip(("ids", "learn"), r, strict=True)},
    )
    stats["dialogues"] = {part: len(ids) for part, (ids, _) in rows.items()}
    stats["golden_texts"] = [p for c in held["austen"] + held["tom-sawyer"] for p in c if 250 < len(p) < 500][:12]
    (folder / "stats.json").write_text(json.dumps(stats, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({k: stats[k] for k in ("vocab", "sources", "dialogues")}, indent=1))


def recipes(vocab: int) -> dict:
    """The runs that were compared. What ships is the first, then polish, which settles the fixed answers."""
    from tiny.model import Shape
    from tiny.training import Recipe

    deep = Shape(vocab=vocab, hidden=192, layers=7, heads=6, kv_heads=2, ffn=512)
    wide = Shape(vocab=vocab, hidden=256, layers=4, heads=8, kv_heads=2, ffn=608)
    compared = (
        Recipe("deep-words", deep, steps=3500, dropout=0.2, word_dropout=0.1, weight_decay=0.3),
        Recipe("deep-d30", deep, steps=3500, dropout=0.3, weight_decay=0.3),
        Recipe("wide-d30", wide, steps=3500, dropout=0.3, weight_decay=0.3),
        Recipe(
            "polish",
            deep,
            steps=400,
            learning_rate=4e-4,
            dropout=0.1,
            chat_share=0.5,
            chat_share_late=0.5,
            length_late=512,
            fixed_share=0.4,
            keep_best=False,
        ),  # what ships: goes on from deep-words
    )
    return {recipe.name: recipe for recipe in compared}


def train(args: argparse.Namespace) -> None:
    """Train the named recipes and write each as an HF model folder with its report under OUT."""
    import dataclasses

    import torch
    from tokenizers import Tokenizer

    from tiny import export, sources, training

    data = args.work / "data"
    tokenizer = Tokenizer.from_file(str(data / "tokenizer.json"))
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    stats = json.loads((data / "stats.json").read_text(encoding="utf-8"))
    known = recipes(tokenizer.get_vocab_size())
    start = export.read_weights(args.start) if args.start else None
    for name in args.recipe or list(known)[:1]:
        recipe = known[name]
        if args.steps:
            recipe = dataclasses.replace(recipe, steps=args.steps, tokens=args.tokens, eval_every=args.steps)
        weights = {s.key: s.weight for s in sources.SOURCES}
        batches = training.Batches(data, weights, tokenizer.token_to_id("<|bos|>"), device, recipe.seed)
        model, report = training.train(recipe, batches, device, log=lambda line: print(line, flush=True), start=start)
        export.write_model(args.out / name, model, data / "tokenizer.json")
        report |= {
            "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
            "torch": torch.__version__,
        }
        report |= {
            "stats": stats,
            "settings": dataclasses.asdict(recipe),
            "samples": export.sample_texts(args.out / name),
        }
        if args.start:
            report["start"] = json.loads((args.start / "report.json").read_text(encoding="utf-8"))
        (args.out / name / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        print(json.dumps({k: report[k] for k in ("recipe", "parameters", "seconds", "best_step", "held_out")}))
        for sample in report["samples"]:
            print(f"--- {sample['kind']} {sample['how']}, stopped={sample['stopped']}: {sample['prompt']}")
            print(sample["text"])


def golden(args: argparse.Namespace) -> None:
    """Write goldens computed by transformers for a trained model."""
    from tiny import export

    stats = json.loads((args.model / "report.json").read_text(encoding="utf-8"))["stats"]
    export.write_golden(args.model, args.out, stats["golden_texts"])


def card(args: argparse.Namespace) -> None:
    """Write MODEL_CARD.md beside a trained model, from its report."""
    from tiny import model_card

    report = json.loads((args.model / "report.json").read_text(encoding="utf-8"))
    (args.model / "MODEL_CARD.md").write_text(model_card.render(report), encoding="utf-8")


def main() -> None:
    """Parse the command line and run one subcommand."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=WORK, help="folder for downloads, texts and data (%(default)s)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    sub = commands.add_parser("fetch", help=fetch.__doc__)
    sub.set_defaults(run=fetch)
    sub = commands.add_parser("prepare", help=prepare.__doc__)
    sub.add_argument("--vocab", type=int, default=4096, help="tokens in the vocabulary (%(default)s)")
    sub.add_argument("--dialogues", type=int, default=40000, help="chat examples to make (%(default)s)")
    sub.add_argument("--row", type=int, default=512, help="longest chat example in tokens (%(default)s)")
    sub.set_defaults(run=prepare)
    sub = commands.add_parser("train", help=train.__doc__)
    sub.add_argument("--out", type=Path, required=True, help="folder to write one model folder per recipe to")
    sub.add_argument("--recipe", action="append", help="recipe to train; repeat for several (the first one)")
    sub.add_argument("--start", type=Path, help="a model folder to go on from, for the recipe polish")
    sub.add_argument("--device", help="torch device (cuda if there is one)")
    sub.add_argument("--steps", type=int, help="smoke test: train this many steps only")
    sub.add_argument("--tokens", type=int, default=4096, help="smoke test: tokens per step (%(default)s)")
    sub.set_defaults(run=train)
    sub = commands.add_parser("golden", help=golden.__doc__)
    sub.add_argument("--model", type=Path, required=True, help="a model folder that train wrote")
    sub.add_argument("--out", type=Path, required=True, help="folder to write the goldens to")
    sub.set_defaults(run=golden)
    sub = commands.add_parser("card", help=card.__doc__)
    sub.add_argument("--model", type=Path, required=True, help="a model folder that train wrote")
    sub.set_defaults(run=card)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
