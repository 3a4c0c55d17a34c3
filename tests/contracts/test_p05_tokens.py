"""P5 for language models: what a gradient is divided by is tokens, counted over the whole window and all ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from peftlit.adapters import FullFineTuning
from peftlit.batch import IGNORE_INDEX, Batch
from tests.contracts.test_p05_accumulation import (
    RAGGED,
    Gradients,
    clipped_or_not,
    contract_same_gradients,
    count_alike,
    norm,
    still,
    windows,
    with_two_ranks,
)  # fmt: skip
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
one_of_each = pytest.mark.parametrize("learned", TWO_RANKS)


def language_module(learned: str, folder: Path) -> Any:
    kind, family, options = LEARNED[learned]
    backbone = {"config_overrides": NO_DROPOUT.get(family, {})}
    return make_language_module(kind, folder, FullFineTuning(), backbone=backbone, optimizer=still, **options)


@pytest.fixture
def train(language_folder):
    """Return a function that trains over micro-batches of these sizes, and then validates on them."""

    def run(
        learned: str, sizes: Sequence[int], accumulate: int, share: slice = slice(None), **arguments: Any
    ) -> Gradients:
        kind, family, options = LEARNED[learned]
        folder = language_folder(family, 0.02)
        words = {"words": options["words"]} if "words" in options else {}
        loader = DataLoader(language_batches(kind, folder, sizes, **words)[share], batch_size=None)
        module, seen = language_module(learned, folder), Gradients()
        trainer = make_trainer(-1, seen, max_epochs=1, accumulate_grad_batches=accumulate, **arguments)
        trainer.fit(module, loader)
        trainer.validate(module, loader, verbose=False)
        seen.logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        return seen

    return run


@clipped_or_not
@pytest.mark.parametrize("learned", LEARNED)
def test_p05_ragged_numbers_of_label_tokens_and_a_short_last_window(learned, clip, train):
    one = train(learned, windows(RAGGED, 3), 1, gradient_clip_val=clip)
    many = train(learned, RAGGED, 3, gradient_clip_val=clip)
    contract_same_gradients(one, many)
    if clip is not None:
        assert [norm(step) for step in many.steps] == pytest.approx([clip] * len(many.steps), rel=1e-4)


def test_p05_the_micro_batches_differ_in_tokens_a_row(language_folder):
    """Else the rows' number would do as a weight, and the contract would prove nothing about tokens."""
    batches = language_batches("text", language_folder("llama", 0.02), RAGGED)
    shares = [int((batch["labels"] != IGNORE_INDEX).sum()) / len(batch["row"]) for batch in batches]
    assert max(shares) > 1.5 * min(shares)


@pytest.mark.slow
@clipped_or_not
@one_of_each
def test_p05_two_ranks_with_unequal_numbers_of_label_tokens(learned, clip, train, tmp_path):
    def run(*arguments: Any, **flags: Any) -> Gradients:
        return train(learned, *arguments, gradient_clip_val=clip, **flags)

    one, *ranks = with_two_ranks(run, tmp_path)
    contract_same_gradients(one, *ranks)
    for many in ranks:
        for name, value in many.logged.items():
            if name.startswith("val/"):  # each token of both ranks counts once
                assert value == pytest.approx(one.logged[name], rel=1e-6), name


@one_of_each
def test_p05_goes_red_when_micro_batches_count_alike(learned, train, monkeypatch):
    one = train(learned, windows(RAGGED, 3), 1)
    count_alike(monkeypatch)
    with pytest.raises(AssertionError, match="gradients differ"):
        contract_same_gradients(one, train(learned, RAGGED, 3))


@pytest.mark.parametrize("learned", ["text", "hidden tokens"])
def test_p05_goes_red_when_rows_are_counted_in_place_of_tokens(learned, train, language_folder, monkeypatch):
    """Each micro-batch gives its mean times its rows, as if all rows had as many tokens."""
    one = train(learned, windows(RAGGED, 3), 1)
    kind = type(language_module(learned, language_folder(LEARNED[learned][1], 0.02)))
    true_loss = kind.loss

    def by_rows(self: Any, batch: Batch) -> Any:
        total, weight, right = true_loss(self, batch)
        rows = torch.tensor(len(batch["row"]))
        return total / weight * rows, rows, right

    monkeypatch.setattr(kind, "loss", by_rows)
    with pytest.raises(AssertionError, match="gradients differ"):
        contract_same_gradients(one, train(learned, RAGGED, 3))


@pytest.mark.parametrize("learned", ["text", "hidden tokens"])
def test_p05_a_window_without_a_label_token_leaves_the_gradient_finite(learned, language_folder):
    folder = language_folder(LEARNED[learned][1], 0.02)
    batches = language_batches(LEARNED[learned][0], folder, [2, 2])
    for batch in batches:
        batch["labels"].fill_(IGNORE_INDEX)
    seen = Gradients()
    trainer = make_trainer(-1, seen, max_epochs=1, accumulate_grad_batches=2)
    trainer.fit(language_module(learned, folder), DataLoader(batches, batch_size=None))
    (step,) = seen.steps
    assert all(not gradient.any() for gradient in step.values())
    assert not math.isnan(trainer.callback_metrics["train/loss"])
