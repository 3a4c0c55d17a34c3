"""Rows read while training, never held as a whole: shuffled in a buffer, dealt to processes, checked as they come.

``datasets.IterableDataset`` would do some of it, but gives a row without its file and number, which messages name, and
deals whole files to workers, so that all but one would have nothing of a single file.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice
from typing import Any, NamedTuple

from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import PreTrainedTokenizerBase

from peftlit.batch import Batch
from peftlit.data.collate import PadCollator
from peftlit.data.rows import TextReader
from peftlit.errors import DataError


class Source(NamedTuple):
    """One file, or one shard of a hub set.

    Attributes:
        name: What to call it in messages.
        read: Starts reading its rows.
    """

    name: str
    read: Callable[[], Iterator[dict[str, Any]]]


class RawRow(NamedTuple):
    """A row as read, with its number in its source, counted from 1."""

    source: str
    number: int
    values: dict[str, Any]


class StreamError(DataError):
    """What is wrong with a row, in one line also where a worker process met it.

    There torch hands the error over as a text that ends in it, below the worker's traceback.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.strip().rpartition(f"{StreamError.__name__}: ")[2])


class RowStream(IterableDataset[RawRow]):
    """Rows of several sources, without end: after the last comes the first, in the order of another epoch.

    The order is a function of seed and epoch: that of the sources, and that in which rows leave the buffer. Ranks and
    their workers each get a part of an epoch: whole sources where these can be dealt evenly, else every n-th row.

    Args:
        sources: What to read.
        seed: Which sequence of orders.
        shuffle_buffer: Rows that are held to draw the next one from; 1 = as read.
        rank: This process among ``world_size``.
        world_size: Number of processes.
    """

    def __init__(
        self, sources: Sequence[Source], *, seed: int, shuffle_buffer: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.sources = list(sources)
        self.seed = seed
        self.shuffle_buffer = shuffle_buffer
        self.rank = rank
        self.world_size = world_size
        self.first_epoch = 0

    def __iter__(self) -> Iterator[RawRow]:
        worker = get_worker_info()
        workers, number = (worker.num_workers, worker.id) if worker else (1, 0)
        return self._endless(self.first_epoch, self.rank * workers + number, self.world_size * workers)

    def _endless(self, first_epoch: int, part: int, parts: int) -> Iterator[RawRow]:
        try:
            for epoch in count(first_epoch):
                rows = self.epoch(epoch, part, parts)
                first = next(rows, None)
                if first is None:
                    raise DataError(
                        f"{self.sources[0].name}: too few rows for {parts} processes; use fewer num_workers"
                    )
                yield first
                yield from rows
        except DataError as error:
            raise StreamError(str(error)) from error

    def epoch(self, epoch: int, part: int = 0, parts: int = 1) -> Iterator[RawRow]:
        """Yield one part of an epoch's rows; those of all parts together are all rows, each once."""
        chance = random.Random(f"{self.seed}/{epoch}")
        sources = chance.sample(self.sources, len(self.sources))
        by_source = len(sources) % parts == 0
        dealt = sources[part::parts] if by_source else sources
        rows = (RawRow(source.name, n, values) for source in dealt for n, values in enumerate(source.read(), 1))
        return _shuffled(rows if by_source else islice(rows, part, None, parts), self.shuffle_buffer, chance)


def _shuffled(rows: Iterator[RawRow], size: int, chance: random.Random) -> Iterator[RawRow]:
    held = list(islice(rows, size))
    for row in rows:
        i = chance.randrange(len(held))
        yield held[i]
        held[i] = row
    chance.shuffle(held)
    yield from held


class StreamLoader(DataLoader[RawRow]):
    """Start at the next epoch's order each time: Lightning asks anew where ``limit_train_batches`` ends an epoch."""

    dataset: RowStream

    def __iter__(self) -> Any:
        iterator = super().__iter__()
        self.dataset.first_epoch += 1
        return iterator


class StreamCollator:
    """Check, clean, tokenize and pad rows as read.

    Args:
        reader: Checks and cleans a row.
        tokenizer: The tokenizer.
        max_length: Tokens per row at most.
    """

    def __init__(self, reader: TextReader, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        self.reader = reader
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.pad = PadCollator(tokenizer)

    def __call__(self, rows: Sequence[RawRow]) -> Batch:
        """Return what :class:`PadCollator` returns.

        Raises:
            StreamError: Something is missing or wrong, with file and row.
        """
        try:
            read = [self.reader.read_row(row.values, row.source, row.number) for row in rows]
        except DataError as error:
            raise StreamError(str(error)) from error
        columns = {name: [row[name] for row in read] for name in read[0]}
        texts = [columns.pop(name) for name in self.reader.columns]
        return self.pad({**self.tokenizer(*texts, truncation=True, max_length=self.max_length), **columns})
