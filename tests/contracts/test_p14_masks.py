"""P14, its data: the tokens that an evaluation hides are always the same, whoever asks, and drawn by nobody else."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from lightning import seed_everything

from peftlit.data import TextLines, masking
from peftlit.data.masking import EpochRows
from tests import tiny
from tests.data.language_data import documents, epoch_of, masks_of, on_rank, text_lines

SETTINGS: list[dict[str, Any]] = [
    {}, {"seed": 1}, {"seed": 2}, {"batch_size": 1}, {"eval_batch_size": 7}, {"group_by_length": False},
    {"tokens_per_batch": 40}, {"num_workers": 2}, {"num_workers": 2, "seed": 3, "eval_batch_size": 5},
]  # fmt: skip


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("encoder")
    tiny.write_tokenizer(folder)
    return str(folder)


@pytest.fixture
def lines(encoder, tmp_path):
    """Return a function that makes a data module of documents, with other settings."""
    shares = {"validation_share": 0.3, "test_share": 0.3}
    return partial(text_lines, tmp_path, documents(60), objective="masked", tokenizer=encoder, **shares)


def evaluated(data: TextLines, epoch: int = 0) -> list[dict[Any, Any]]:
    """What validation and test hide in an epoch."""
    data.setup("fit")
    data.setup("test")
    return [masks_of(epoch_of(loader, epoch)) for loader in (data.val_dataloader(), data.test_dataloader())]


def contract_evaluation_masks(lines: Callable[..., TextLines], **settings: Any) -> None:
    """With other batches, seeds, workers, in another epoch and amid another stream of chance: the same masks."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        expected = evaluated(lines())
    assert all(len(masks) > 18 for masks in expected)
    for epoch in (0, 3):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(epoch + 5)
            assert evaluated(lines(**settings), epoch) == expected


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_p14_evaluation_masks_are_always_the_same(settings, lines):
    contract_evaluation_masks(lines, **settings)


def test_p14_evaluation_masks_do_not_follow_seed_everything(lines, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    found = []
    for seed in (3, 4):
        with torch.random.fork_rng(devices=[]):
            seed_everything(seed, verbose=False)
        found.append(evaluated(lines()))
    assert found[0] == found[1]


@pytest.mark.parametrize("world_size", [2, 3])
def test_p14_ranks_hide_what_one_process_hides(world_size, lines):
    alone, together = evaluated(lines()), [{}, {}]
    for rank in range(world_size):
        data = lines()
        data.trainer = on_rank(rank, world_size)
        for all_of_them, share in zip(together, evaluated(data), strict=True):
            assert not set(all_of_them) & set(share)
            all_of_them.update(share)
    assert together == alone


def test_p14_training_leaves_evaluation_masks_alone(lines):
    data = lines()
    before = evaluated(data)
    trained = [masks_of(epoch_of(data.train_dataloader(), epoch)) for epoch in range(2)]
    assert trained[0] != trained[1]
    assert evaluated(data) == before


# Breakers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"num_workers": 2}], ids=str)
def test_p14_breaker_masks_drawn_from_the_global_generator(settings, lines, monkeypatch):
    monkeypatch.setattr(masking, "_generator", lambda *place: torch.default_generator)
    with pytest.raises(AssertionError):
        contract_evaluation_masks(lines, **settings)


def test_p14_breaker_masks_drawn_batch_by_batch(lines, monkeypatch):
    collate, one = masking.MaskingCollator.__call__, torch.Generator()

    def by_batch(self: Any, columns: Any) -> Any:
        one.manual_seed(self.seed)
        return collate(self, columns)

    monkeypatch.setattr(masking.MaskingCollator, "__call__", by_batch)
    monkeypatch.setattr(masking, "_generator", lambda *place: one)
    contract_evaluation_masks(lines, seed=1)
    with pytest.raises(AssertionError):
        contract_evaluation_masks(lines, eval_batch_size=7)


def test_p14_breaker_evaluation_masks_by_the_training_seed(lines, monkeypatch):
    monkeypatch.setattr(TextLines, "mask_seed", property(lambda self: self._training_seed, lambda self, value: None))
    with pytest.raises(AssertionError):
        contract_evaluation_masks(lines, seed=1)


def test_p14_breaker_evaluation_masks_by_epoch(lines, monkeypatch):
    monkeypatch.setattr(TextLines, "_dataset", lambda self, split: EpochRows(self._encoded[split]))
    with pytest.raises(AssertionError):
        contract_evaluation_masks(lines)
