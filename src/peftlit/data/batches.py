"""Loaders that make batches of encoded rows, and the place in them from which a training goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import datasets
import torch
from lightning import Trainer
from torch.utils.data import DataLoader

from peftlit.data.collate import Collator
from peftlit.data.sampler import LengthGroupedSampler


class EncodedRows(NamedTuple):
    """Rows as a loader takes them.

    Attributes:
        rows: Gives the columns of some rows by their numbers.
        lengths: Tokens in each row.
        collate: Makes a batch of these columns.
    """

    rows: Any
    lengths: list[int]
    collate: Collator


@dataclass(frozen=True, kw_only=True)
class LoaderFactory:
    """Makes the loaders of one process.

    Args:
        trainer: Knows the ranks and the device; None = one process on the CPU.
        seed: Seed of the training order.
        sample_seed: Seed of the rows that a limited evaluation scores.
        group_by_length: Batch rows of similar length together.
        num_workers: Processes that load batches.
    """

    trainer: Trainer | None
    seed: int
    sample_seed: int
    group_by_length: bool
    num_workers: int

    @property
    def rank_and_world_size(self) -> tuple[int, int]:
        """This process's rank, and the number of processes."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    @property
    def pin_memory(self) -> bool:
        """Whether batches go to a GPU."""
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def loader(
        self,
        data: EncodedRows,
        batch_size: int,
        *,
        shuffle: bool = False,
        tokens_per_batch: int | None = None,
        resume_at: tuple[int, int] = (0, 0),
        limit: float = 1.0,
    ) -> DataLoader[Any]:
        """Return a loader; its arguments are those of :class:`LengthGroupedSampler`."""
        rank, world_size = self.rank_and_world_size
        sampler = LengthGroupedSampler(
            data.lengths,
            batch_size,
            shuffle=shuffle,
            seed=self.seed if shuffle else self.sample_seed,
            group_by_length=self.group_by_length,
            tokens_per_batch=tokens_per_batch,
            rank=rank,
            world_size=world_size,
            resume_at=resume_at,
            limit=limit,
        )
        return DataLoader(
            data.rows,
            sampler=sampler,
            batch_size=None,
            collate_fn=data.collate,  # type: ignore[arg-type]  # takes columns: batch_size is None
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.pin_memory,
            # its own, so that making an iterator draws nothing from the stream that dropout draws from
            generator=torch.Generator().manual_seed(self.seed),
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


def count_rows(encoded: datasets.Dataset, taken: list[int]) -> int:
    """Count the source's rows among encoded ones: a packed row holds several, a long document gives several."""
    if "rows" in encoded.column_names:
        return len({row for packed in encoded.select_columns("rows")[taken]["rows"] for row in packed})
    return len(set(encoded.select_columns("row")[taken]["row"]))
