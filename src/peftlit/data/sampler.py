"""Which rows go together in which batch, as a function of seed, epoch and row lengths alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch.utils.data import Sampler

_POOL_BATCHES = 50
"""Shuffled rows are sorted by length within pools of so many batches."""

_MIN_LAST_BATCH = 8
"""A last training batch with fewer rows is evened out with the one before it.

A step on one or two rows would be mostly noise. Up to so many ranks also each get rows of it, so that they step over
the same rows as one process with the same global batch size.
"""

_LENGTH_STEP = 8
"""Under a token budget, lengths are rounded up to a multiple of this before sorting."""


class RowNumbers(list[int]):
    """The rows of one batch, with the epoch they are drawn in: masks depend on both."""

    def __init__(self, rows: list[int], epoch: int) -> None:
        super().__init__(rows)
        self.epoch = epoch


@dataclass(eq=False, repr=False)
class LengthGroupedSampler(Sampler[RowNumbers]):
    """Yield batches of rows of similar length; every rank gets its share of one global list.

    Lightning calls :meth:`set_epoch` on a loader's ``sampler``, so pass this as ``sampler`` with ``batch_size=None``.
    Iterating changes no state, so the order of an epoch can be computed again.

    Args:
        lengths: Tokens in each row.
        batch_size: Rows per batch and rank; the upper bound under a token budget.
        shuffle: A new order in every epoch; False = longest rows first, so that a lack of memory shows in the first
            batch, Lightning's sanity check included.
        seed: Seed of the orders; without ``shuffle``, of the sample.
        group_by_length: Batch rows of similar length together; False = plain shuffling.
        tokens_per_batch: With ``shuffle``, padded tokens per batch and rank at most; batches then vary in rows.
        rank: This process among ``world_size``.
        world_size: Number of processes.
        resume_at: The epoch of a checkpoint, and how many of its batches are done and skipped.
        limit: Without ``shuffle``, the number or share of batches that are taken, as in ``trainer.limit_val_batches``.
            These come first and are a random sample of the rows; the other rows follow.
    """

    lengths: Sequence[int]
    batch_size: int
    _: KW_ONLY
    shuffle: bool
    seed: int = 0
    group_by_length: bool = True
    tokens_per_batch: int | None = None
    rank: int = 0
    world_size: int = 1
    resume_at: tuple[int, int] = (0, 0)
    limit: float = 1.0

    def __post_init__(self) -> None:
        """Count the batches, whose number is the same in every epoch."""
        self._lengths = torch.as_tensor(self.lengths, dtype=torch.int64)
        self.epoch = self.resume_at[0]  # loader workers ask for batches before Lightning sets the epoch
        self._num_batches = len(self._global_batches())

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is yielded next, from 0."""
        self.epoch = epoch

    def taken_rows(self) -> list[int]:
        """Return the rows of the batches that are taken under the limit, over all ranks."""
        batches = self._global_batches()
        return [row for rows in batches[: self._taken(len(batches))] for row in rows.tolist()]

    def _taken(self, batches: int) -> int:
        """Return how many of so many batches Lightning takes."""
        return min(batches, self.limit) if isinstance(self.limit, int) else int(batches * self.limit)

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[RowNumbers]:
        epoch, done = self.resume_at
        for rows in self._global_batches()[done if epoch == self.epoch else 0 :]:
            yield RowNumbers(rows.tensor_split(self.world_size)[self.rank].tolist(), self.epoch)

    def _global_batches(self) -> list[torch.Tensor]:
        if not len(self._lengths):
            return []
        if not self.shuffle:
            return self._sample_first()
        generator = torch.Generator().manual_seed(self.seed + 1_000_003 * self.epoch)
        if self.tokens_per_batch is None:
            batches = self._fill_ranks(self._by_rows(generator))
        else:
            batches = self._fill_ranks(self._by_token_budget(self.tokens_per_batch, generator))
        if self.group_by_length or self.tokens_per_batch is not None:
            batches = [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
        return batches

    def _sample_first(self) -> list[torch.Tensor]:
        """Return the batches of an evaluation: of all rows, or of the sample and then of the others."""
        total = len(self._lengths)
        whole = self._in_order(torch.arange(total))
        taken = self._taken(len(whole))
        if not 0 < taken < len(whole):
            return whole
        # leave at least one row for each rank
        size = min(taken * self.batch_size * self.world_size, total - self.world_size)
        shuffled = torch.randperm(total, generator=torch.Generator().manual_seed(self.seed))
        sample, others = (part.sort().values for part in shuffled.split([size, total - size]))
        return [*self._in_order(sample), *self._in_order(others)]

    def _in_order(self, rows: torch.Tensor) -> list[torch.Tensor]:
        if self.group_by_length:
            rows = _longest_first(rows, self._lengths)
        return self._fill_ranks(list(rows.split(self.batch_size * self.world_size)))

    def _by_rows(self, generator: torch.Generator) -> list[torch.Tensor]:
        size = self.batch_size * self.world_size
        order = torch.randperm(len(self._lengths), generator=generator)
        if self.group_by_length:
            order = torch.cat([_longest_first(pool, self._lengths) for pool in order.split(size * _POOL_BATCHES)])
        batches = list(order.split(size))
        if len(batches) > 1 and len(batches[-1]) < min(_MIN_LAST_BATCH, size):
            batches[-2:] = torch.cat(batches[-2:]).tensor_split(2)
        return batches

    def _by_token_budget(self, budget: int, generator: torch.Generator) -> list[torch.Tensor]:
        """Cut rows sorted by length into batches; only rows of equal rounded length change places between epochs.

        The sequence of lengths is then the same in every epoch, and so is the number of batches.
        """
        rounded = (self._lengths + _LENGTH_STEP - 1) // _LENGTH_STEP * _LENGTH_STEP
        order = _longest_first(torch.randperm(len(rounded), generator=generator), rounded)
        batches = []
        while len(order):
            longest = max(1, int(rounded[order[0]]))
            rows = max(1, min(self.batch_size, budget // longest)) * self.world_size
            batches.append(order[:rows])
            order = order[rows:]
        return batches

    def _fill_ranks(self, batches: list[torch.Tensor]) -> list[torch.Tensor]:
        """Merge a last batch that has fewer rows than there are ranks with the one before it."""
        if len(batches) < 2 or len(batches[-1]) >= self.world_size:
            return batches
        tail = torch.cat(batches[-2:])
        if len(tail) < 2 * self.world_size:
            return [*batches[:-2], tail]
        return [*batches[:-2], tail[: -self.world_size], tail[-self.world_size :]]


def _longest_first(rows: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    return rows[lengths[rows].argsort(descending=True, stable=True)]
