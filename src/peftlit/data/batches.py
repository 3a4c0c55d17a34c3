"""Loaders that make batches of encoded rows, and the place in them from which a training goes on."""

from __future__ import annotations

from typing import Any

import datasets
import torch
from lightning import Trainer
from torch.utils.data import DataLoader

from peftlit.data.collate import Collator
from peftlit.data.sampler import LengthGroupedSampler


def rank_and_world_size(trainer: Trainer | None) -> tuple[int, int]:
    """Return this process's rank, and the number of processes."""
    return (trainer.global_rank, trainer.world_size) if trainer else (0, 1)


def pin_memory(trainer: Trainer | None) -> bool:
    """Tell whether batches go to a GPU."""
    return trainer is not None and trainer.strategy.root_device.type == "cuda"


def make_loader(
    rows: Any, sampler: LengthGroupedSampler, collate: Collator, trainer: Trainer | None, seed: int, num_workers: int
) -> DataLoader[Any]:
    """Return a loader of rows that give their columns by a list of numbers."""
    return DataLoader(
        rows,
        sampler=sampler,
        batch_size=None,
        collate_fn=collate,  # type: ignore[arg-type]  # takes columns: batch_size is None
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=pin_memory(trainer),
        # its own, so that making an iterator draws nothing from the stream that dropout draws from
        generator=torch.Generator().manual_seed(seed),
    )


def training_position(trainer: Trainer | None) -> dict[str, int]:
    """Return the epoch, and how many of its batches are done; nothing outside of training."""
    if trainer is None or trainer.state.fn != "fit":
        return {}
    loop = trainer.fit_loop
    epochs, batches = loop.epoch_progress.current, loop.epoch_loop.batch_progress.current
    epoch, done = max(epochs.started - 1, 0), batches.processed  # type: ignore[attr-defined]
    ended = done >= loop.max_batches and batches.completed == done  # else its validation is still to come
    return {"epoch": epoch + 1, "batches": 0} if ended else {"epoch": epoch, "batches": done}


def count_sampled(encoded: datasets.Dataset, taken: list[int]) -> int | None:
    """Count the source's rows among those taken, None where all or none are.

    A packed row holds several rows of the source, and a long document gives several.
    """
    if not 0 < len(taken) < len(encoded):
        return None
    if "rows" in encoded.column_names:
        return len({row for packed in encoded.select_columns("rows")[taken]["rows"] for row in packed})
    return len(set(encoded.select_columns("row")[taken]["row"]))
