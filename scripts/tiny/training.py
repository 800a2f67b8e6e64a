"""The training loop: book windows and chat rows mixed, AdamW, cosine schedule, the best validation loss kept."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .model import Llama, Shape

IGNORED = -100


@dataclass(frozen=True)
class Recipe:
    """One training run. ``tokens`` is per step; chat rows take ``chat_share`` of it, rising to ``chat_share_late``.

    ``fixed_share`` is the share of chat rows that hold one of the fixed answers, beyond those already mixed in.
    """

    name: str
    shape: Shape
    steps: int
    tokens: int = 32768
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    dropout: float = 0.1
    word_dropout: float = 0.0
    warmup: int = 100
    length: int = 512
    length_late: int = 2048
    late: float = 0.6
    chat_share: float = 0.15
    chat_share_late: float = 0.45
    fixed_share: float = 0.0
    keep_best: bool = True
    seed: int = 20
    eval_every: int = 100


class Batches:
    """Draws training batches from the prepared arrays, on the device, from one seeded generator."""

    def __init__(self, data: Path, weights: dict[str, float], bos: int, device: torch.device, seed: int) -> None:
        self.device, self.bos = device, bos
        self.rng = np.random.default_rng(seed)
        books, chat = np.load(data / "books.npz"), np.load(data / "chat.npz")
        self.train = {k: (books[f"{k}.train"], books[f"{k}.train.starts"]) for k in weights}
        self.held = {k: (books[f"{k}.held"], books[f"{k}.held.starts"]) for k in weights}
        self.chat = chat["train.ids"], chat["train.learn"]
        self.chat_fixed = chat["fixed.ids"], chat["fixed.learn"]
        self.chat_held = chat["held.ids"], chat["held.learn"]
        sizes = np.array([weights[k] * len(self.train[k][0]) for k in weights])
        self.keys, self.odds = list(weights), sizes / sizes.sum()

    def _tensors(self, inputs: np.ndarray, targets: np.ndarray) -> tuple[Tensor, Tensor]:
        return (
            torch.from_numpy(inputs.astype(np.int64)).to(self.device),
            torch.from_numpy(targets.astype(np.int64)).to(self.device),
        )

    def windows(self, rows: int, length: int) -> tuple[Tensor, Tensor]:
        """Book windows [rows, length]: BOS, then text from a paragraph's start on."""
        out = np.full((rows, length + 1), self.bos, dtype=np.int64)
        for row, key in enumerate(self.rng.choice(self.keys, rows, p=self.odds)):
            ids, starts = self.train[key]
            last = np.searchsorted(starts, max(len(ids) - length, 1))
            at = starts[self.rng.integers(last)]
            piece = ids[at : at + length]
            out[row, 1 : 1 + len(piece)] = piece
        return self._tensors(out[:, :-1], out[:, 1:])

    def chat_rows(self, rows: int, fixed_share: float) -> tuple[Tensor, Tensor]:
        """Chat rows, each one dialogue; only what the assistant says is learned."""
        fixed = int(rows * fixed_share)
        picks = [(self.chat, rows - fixed), (self.chat_fixed, fixed)]
        chosen = [(ids, learn, self.rng.integers(len(ids), size=n)) for (ids, learn), n in picks]
        return self._chat_targets(
            np.concatenate([ids[at] for ids, _, at in chosen]), np.concatenate([learn[at] for _, learn, at in chosen])
        )

    def _chat_targets(self, ids: np.ndarray, learn: np.ndarray) -> tuple[Tensor, Tensor]:
        return self._tensors(ids[:, :-1], np.where(learn, ids.astype(np.int64), IGNORED)[:, 1:])

    def held_windows(self, key: str, length: int) -> tuple[Tensor, Tensor]:
        """A source's held-out stream as consecutive windows [rows, length], each led by BOS."""
        ids = self.held[key][0].astype(np.int64)
        rows = max(len(ids) // length, 1)
        ids = ids[: rows * length].reshape(rows, -1)
        inputs = np.concatenate([np.full((rows, 1), self.bos), ids[:, :-1]], axis=1)
        return self._tensors(inputs, ids)

    def held_chat(self) -> tuple[Tensor, Tensor]:
        """The held-out chat rows."""
        return self._chat_targets(*self.chat_held)


def _loss(model: Llama, ids: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy in nats per learned token, in bfloat16 autocast."""
    with torch.autocast(ids.device.type, dtype=torch.bfloat16):
        logits = model(ids)
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED)


@torch.no_grad()
def validate(model: Llama, batches: Batches, length: int = 512) -> dict[str, float]:
    """Validation losses in nats per token: one per source, ``books`` (their mean by size) and ``chat``."""
    model.eval()
    out, total, count = {}, 0.0, 0
    for key in batches.keys:
        ids, targets = batches.held_windows(key, length)
        pieces = [(_loss(model, i, t).item(), len(i)) for i, t in zip(ids.split(32), targets.split(32), strict=True)]
        out[key] = sum(v * n for v, n in pieces) / len(ids)
        total, count = total + out[key] * len(ids), count + len(ids)
    out["books"] = total / count
    ids, targets = batches.held_chat()
    pieces = [(_loss(model, i, t).item(), len(i)) for i, t in zip(ids.split(64), targets.split(64), strict=True)]
    out["chat"] = sum(v * n for v, n in pieces) / len(ids)
    model.train()
    return out


def _optimizer(model: Llama, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only."""
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() != 2]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.95))


def _learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then a cosine down to 2 % of the peak."""
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(recipe.steps - recipe.warmup, 1)
    return recipe.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def train(
    recipe: Recipe,
    batches: Batches,
    device: torch.device,
    log: Callable[[str], None],
    start: dict[str, Tensor] | None = None,
) -> tuple[Llama, dict[str, object]]:
    """Train one model; return the one with the best held-out loss (books and chat alike) and a report.

    ``start`` holds weights to go on from; without ``recipe.keep_best`` the last weights are returned.
    """
    torch.manual_seed(recipe.seed)
    model = Llama(recipe.shape, recipe.dropout, recipe.word_dropout).to(device)
    if start:
        model.load_state_dict(start)
    optimizer, began, history = _optimizer(model, recipe), time.monotonic(), []
    best, best_score, best_step = copy.deepcopy(model.state_dict()), math.inf, 0
    for step in range(recipe.steps):
        late = step >= recipe.late * recipe.steps
        length = recipe.length_late if late else recipe.length
        share = recipe.chat_share_late if late else recipe.chat_share
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(recipe, step)
        row = batches.chat[0].shape[1]
        loss_books = _loss(model, *batches.windows(max(int(recipe.tokens * (1 - share)) // length, 1), length))
        loss_chat = _loss(model, *batches.chat_rows(max(int(recipe.tokens * share) // row, 1), recipe.fixed_share))
        loss = (1 - share) * loss_books + share * loss_chat
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % recipe.eval_every == 0 or step + 1 == recipe.steps:
            held = validate(model, batches)
            score = 0.5 * (held["books"] + held["chat"])
            history.append(
                {"step": step + 1, "train": round(loss.item(), 4), **{k: round(v, 4) for k, v in held.items()}}
            )
            log(f"{recipe.name} {history[-1]} {time.monotonic() - began:.0f}s")
            if score < best_score or not recipe.keep_best:
                best, best_score, best_step = copy.deepcopy(model.state_dict()), score, step + 1
    model.load_state_dict(best)
    report = {
        "recipe": recipe.name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": round(time.monotonic() - began, 1),
        "best_step": best_step,
        "steps": recipe.steps,
        "held_out": {k: round(v, 4) for k, v in validate(model, batches).items()},
        "history": history,
    }
    return model, report
