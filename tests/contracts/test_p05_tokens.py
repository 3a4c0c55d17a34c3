"""P5 for language models: what a gradient is divided by is tokens, counted over the whole window and all ranks."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from peftlit.adapters import FullFineTuning
from peftlit.batch import IGNORE_INDEX, Batch
from peftlit.modules.accumulation import AccumulationWindow
from tests.contracts.test_p05_accumulation import (
    ON_TWO_RANKS,
    RAGGED,
    TOGETHER,
    Gradients,
    contract_same_gradients,
    read_steps,
    save_steps,
    windows,
)  # fmt: skip
from tests.forked import forked, on_ranks
from tests.modules.cases import make_trainer
from tests.modules.language_cases import NO_DROPOUT, TWO_TOKENS, language_batches, make_language_module

LEARNED: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "text": ("text", "llama", {}),
    "text, gpt2": ("text", "gpt2", {}),
    "labels, restricted": ("labels", "llama", {"label_loss": "restricted"}),
    "labels, restricted, whole sequences": ("labels", "llama", {"label_loss": "restricted", "words": TWO_TOKENS}),
    "labels, completion": ("labels", "llama", {"label_loss": "completion", "words": TWO_TOKENS}),
    "hidden tokens": ("masked", "bert", {}),
}
"""What is learned, of which family, with which settings."""

TWO_RANKS = ["text", "labels, completion", "hidden tokens"]


def language_gradients(
    learned: str, folder: Path, sizes: Sequence[int], accumulate: int, *, share: slice = slice(None), **arguments: Any
) -> Gradients:
    """Train over micro-batches, without dropout and without moving the weights; then validate on them."""
    kind, family, options = LEARNED[learned]
    module = make_language_module(
        kind,
        folder,
        FullFineTuning(),
        backbone={"config_overrides": NO_DROPOUT.get(family, {})},
        optimizer=lambda groups: torch.optim.SGD(groups, lr=0.0),
        **options,
    )
    words = {"words": options["words"]} if "words" in options else {}
    batches = language_batches(kind, folder, sizes, **words)[share]
    seen = Gradients()
    trainer = make_trainer(-1, seen, **{"max_epochs": 1, "accumulate_grad_batches": accumulate, **arguments})
    trainer.fit(module, DataLoader(batches, batch_size=None))
    trainer.validate(module, DataLoader(batches, batch_size=None), verbose=False)
    seen.logged = {name: float(value) for name, value in trainer.callback_metrics.items()}  # type: ignore[attr-defined]
    return seen


def label_tokens(batch: Batch) -> int:
    return int((batch["labels"] != IGNORE_INDEX).sum())


@pytest.mark.parametrize("clip", [None, 0.05], ids=["unclipped", "clipped"])
@pytest.mark.parametrize("learned", LEARNED)
def test_p05_ragged_numbers_of_label_tokens_and_a_short_last_window(learned, clip, language_folder):
    folder = language_folder(LEARNED[learned][1], 0.02)
    one = language_gradients(learned, folder, windows(RAGGED, 3), 1, gradient_clip_val=clip)
    many = language_gradients(learned, folder, RAGGED, 3, gradient_clip_val=clip)
    contract_same_gradients(one, many)
    if clip is not None:
        for step in many.steps:
            norm = torch.stack([gradient.norm() for gradient in step.values()]).norm()
            assert float(norm) == pytest.approx(clip, rel=1e-4)


def test_p05_the_micro_batches_differ_in_tokens_a_row(language_folder):
    """Else the rows' number would do as a weight, and the contract would prove nothing about tokens."""
    shares = [
        label_tokens(batch) / len(batch["row"])
        for batch in language_batches("text", language_folder("llama", 0.02), RAGGED)
    ]
    assert max(shares) > 1.5 * min(shares)


def on_two_ranks(learned: str, folder: Path, out: Path, clip: float | None) -> list[Gradients]:
    """Return what each of two processes steps with and logs, and what one does with whole windows."""

    def begin() -> None:
        rank = int(os.environ.get("LOCAL_RANK", 0))
        sizes = [size for window in ON_TWO_RANKS for size in window]
        share = slice(rank, None, 2)
        seen = language_gradients(learned, folder, sizes, 2, share=share, gradient_clip_val=clip, **TOGETHER)
        save_steps(seen, out, rank)
        (out / f"rank{rank}.json").write_text(json.dumps(seen.logged))  # type: ignore[attr-defined]

    outcome = forked(partial(on_ranks, begin), out, others_may_take=60.0)
    assert outcome.code == 0, outcome.said
    ranks = [read_steps(out, rank) for rank in range(2)]
    for rank, seen in enumerate(ranks):
        seen.logged = json.loads((out / f"rank{rank}.json").read_text())  # type: ignore[attr-defined]
    return [language_gradients(learned, folder, list(map(sum, ON_TWO_RANKS)), 1, gradient_clip_val=clip), *ranks]


@pytest.mark.slow
@pytest.mark.parametrize("clip", [None, 0.05], ids=["unclipped", "clipped"])
@pytest.mark.parametrize("learned", TWO_RANKS)
def test_p05_two_ranks_with_unequal_numbers_of_label_tokens(learned, clip, language_folder, tmp_path):
    one, *ranks = on_two_ranks(learned, language_folder(LEARNED[learned][1], 0.02), tmp_path, clip)
    for many in ranks:
        contract_same_gradients(one, many)
        for name, value in many.logged.items():
            if name.startswith("val/"):  # each token of both ranks counts once
                assert value == pytest.approx(one.logged[name], rel=1e-6), name


def as_rows(self: AccumulationWindow, total: torch.Tensor, weight: torch.Tensor, trainer: Any) -> torch.Tensor:
    return total / weight


@pytest.mark.parametrize("learned", ["text", "labels, completion", "hidden tokens"])
def test_p05_goes_red_when_micro_batches_count_alike(learned, language_folder, monkeypatch):
    folder = language_folder(LEARNED[learned][1], 0.02)
    one = language_gradients(learned, folder, windows(RAGGED, 3), 1)
    monkeypatch.setattr(AccumulationWindow, "accumulate", as_rows)
    monkeypatch.setattr(AccumulationWindow, "normalize_gradients", lambda self, parameters, trainer: torch.zeros(()))
    with pytest.raises(AssertionError, match="gradients differ"):
        contract_same_gradients(one, language_gradients(learned, folder, RAGGED, 3))


@pytest.mark.parametrize("learned", ["text", "hidden tokens"])
def test_p05_goes_red_when_rows_are_counted_in_place_of_tokens(learned, language_folder, monkeypatch):
    """Each micro-batch gives its mean times its rows, as if all rows had as many tokens."""
    folder = language_folder(LEARNED[learned][1], 0.02)
    one = language_gradients(learned, folder, windows(RAGGED, 3), 1)
    kind = type(make_language_module(LEARNED[learned][0], folder, FullFineTuning()))
    true_loss = kind.loss

    def by_rows(self: Any, batch: Batch) -> Any:
        total, weight, right = true_loss(self, batch)
        rows = torch.tensor(len(batch["row"]))
        return total / weight * rows, rows, right

    monkeypatch.setattr(kind, "loss", by_rows)
    with pytest.raises(AssertionError, match="gradients differ"):
        contract_same_gradients(one, language_gradients(learned, folder, RAGGED, 3))


@pytest.mark.parametrize("learned", ["text", "hidden tokens"])
def test_p05_a_window_without_a_label_token_leaves_the_gradient_finite(learned, language_folder):
    kind, family, _ = LEARNED[learned]
    folder = language_folder(family, 0.02)
    module = make_language_module(
        kind, folder, FullFineTuning(), optimizer=lambda groups: torch.optim.SGD(groups, lr=0.0)
    )
    batches = language_batches(kind, folder, [2, 2])
    for batch in batches:
        batch["labels"] = torch.full_like(batch["labels"], IGNORE_INDEX)
    seen = Gradients()
    trainer = make_trainer(-1, seen, max_epochs=1, accumulate_grad_batches=2)
    trainer.fit(module, DataLoader(batches, batch_size=None))
    (step,) = seen.steps
    assert all(not gradient.any() for gradient in step.values())
    assert not math.isnan(float(trainer.callback_metrics["train/loss"]))
