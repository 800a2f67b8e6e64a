"""MODEL_CARD.md, rendered from a training report."""

from __future__ import annotations

from typing import Any

from .sources import SOURCES

_REGISTRIES = {"debian": "Debian", "pypi": "PyPI"}

_LIMITS = """\
## What it is for, and what it is not

troupe-tiny lets a fresh machine answer a request with no download: it exercises the whole engine (tokenizer, chat
template, grouped-query attention, sampling, stop tokens) at little cost. It writes mostly grammatical,
old-fashioned English that seldom makes sense for longer than a sentence or two. It knows no facts, follows no
instructions and does not reason. The corpus is small (fewer tokens than the model has weights), so it mixes its
books' people and phrases freely, and greedy decoding falls into loops: sample, as `generation_config.json` says.
The books are of 1811 to 1919 and a Bible, and so are their views; paragraphs with slurs were left out, but nothing
else was screened. Windows of up to 2048 tokens were trained on; the last phase used 512.

Its answers to greetings and to questions about itself were written for it by this project
(see `scripts/tiny/chat.py`); every other chat example is a request put in front of a passage from the books.
"""


def _table(rows: list[tuple[Any, ...]]) -> str:
    """A Markdown table; the first row is the header."""
    lines = ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]) + "\n"


def _data(report: dict[str, Any]) -> str:
    stats = report["stats"]["sources"]
    rows = [("work", "licence of the text", "package and version", "bytes used", "tokens", "weight")]
    for source in SOURCES:
        part = stats[source.key]["train"]
        package = f"{_REGISTRIES[source.package.registry]}: `{source.package.name}` {source.package.version}"
        rows.append(
            (f"{source.author}, {source.title}", source.licence, package, part["bytes"], part["tokens"], source.weight)
        )
    held = sum(s["held"]["tokens"] for s in stats.values())
    return _table(rows) + (
        f"\nThe bytes are those left after cleaning; {held} tokens of whole chapters were held out besides. "
        f"{report['stats']['dialogues']['train']} chat examples were cut from the same chapters. "
        "A package's own licence covers its code and packaging, not these texts.\n"
    )


def _losses(report: dict[str, Any]) -> str:
    phases = [r for r in (report.get("start"), report) if r]
    keys = list(report["held_out"])
    rows = [("phase", "steps", "kept step", "seconds", *(f"{k}" for k in keys))]
    for phase in phases:
        numbers = [phase["held_out"][k] for k in keys]
        rows.append((phase["recipe"], phase["steps"], phase["best_step"], phase["seconds"], *numbers))
    sizes = [s["held"] for s in report["stats"]["sources"].values()]
    per_token = sum(s["bytes"] for s in sizes) / sum(s["tokens"] for s in sizes)
    bits = report["held_out"]["books"] / 0.6931472 / per_token
    return (
        f"Held-out cross entropy in nats per token, as shipped up to rounding to bfloat16 ({bits:.2f} bits per byte "
        f"on the books). Trained on one {report['device']} with torch {report['torch']}; the first phase shared the "
        "GPU with two other runs.\n\n" + _table(rows)
    )


def _samples(report: dict[str, Any]) -> str:
    out = []
    for sample in report["samples"]:
        text = sample["text"].strip().replace("\n\n", "\n>\n> ")
        ended = "" if sample["stopped"] else " [cut here]"
        out.append(f"**{sample['kind']}, {sample['how']}:** {sample['prompt']}\n\n> {text}{ended}\n")
    return "\n".join(out)


def render(report: dict[str, Any]) -> str:
    """Return the card for a trained model's report."""
    settings = report["settings"]
    shape = settings["shape"]
    return f"""\
# troupe-tiny

The default model of Troupe: a {report["parameters"] / 1e6:.2f}-million-parameter Llama in bfloat16, with a byte-level
BPE tokenizer of {shape["vocab"]} tokens and a chat template. Both were trained from nothing by this project's
`scripts/train_tiny.py`, and are released under the project's licence.

## Architecture

`LlamaForCausalLM`: {shape["layers"]} layers, hidden size {shape["hidden"]}, {shape["heads"]} query heads of
{shape["hidden"] // shape["heads"]} over {shape["kv_heads"]} KV heads, feed-forward {shape["ffn"]} (gated SiLU), RMSNorm
(eps {shape["norm_eps"]}), rotary positions (base {shape["rope_theta"]:.0f}, up to {shape["max_position"]}), tied
embeddings, no biases.

Tokens 0 to 5 are `<|bos|>`, `<|eos|>`, `<|system|>`, `<|user|>`, `<|assistant|>` and `<|end|>`. A text begins with
`<|bos|>`; a chapter ends with `<|eos|>`, a turn of a dialogue with `<|end|>`; generation stops at either.

{_LIMITS}
## Data

{_data(report)}
## Training

{_losses(report)}
AdamW with a cosine schedule, bfloat16 autocast, {settings["tokens"]} tokens a step, seed {settings["seed"]}; dropout
and, in the first phase, blanked input tokens against overfitting. Of the runs compared (`recipes` in the script),
this one had the lowest held-out loss; the phase `polish` gave up a little of it to settle the fixed answers.

Reproduce it with

```
{_commands()}
```

`fetch` checks the SHA-256 of every text. Seeds are fixed, but GPU arithmetic is not bit-exact across devices and
library versions, so a new run gives a model alike in loss and not in every bit.

## Samples

Greedy, and sampled with the settings in `generation_config.json` (seed 7); none was picked.

{_samples(report)}"""


def _commands() -> str:
    return "\n".join(
        (
            "python3 scripts/train_tiny.py fetch",
            "python3 scripts/train_tiny.py prepare",
            "python3 scripts/train_tiny.py train --out OUT --recipe deep-words",
            "python3 scripts/train_tiny.py train --out OUT --recipe polish --start OUT/deep-words",
        )
    )
