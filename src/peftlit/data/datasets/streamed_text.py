"""Labelled texts that are too many to hold on disk, or to wait for: streamed while training."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from glob import glob
from typing import Any

import datasets
from torch.utils.data import DataLoader

from peftlit.data.batches import pin_memory, rank_and_world_size
from peftlit.data.cleaning import Cleaner
from peftlit.data.files import iterate_rows, read_hub, read_rows
from peftlit.data.files_or_hub import FilesOrHub
from peftlit.data.labelled import TextDataModule
from peftlit.data.messages import Question
from peftlit.data.rows import TextReader
from peftlit.data.split import Splits
from peftlit.data.stream import RowStream, Source, StreamCollator, StreamLoader
from peftlit.errors import ConfigError, DataError

_PROBE = ("A short sentence.", "And another one, a little longer than the first.")


@dataclass(kw_only=True, eq=False, repr=False)
class StreamedText(FilesOrHub, TextDataModule):
    """Texts and labels whose training rows are read, checked and tokenized while training, and never kept.

    Memory does not grow with the number of rows. A stream has no end, so ``trainer.max_steps`` says where training
    ends, and ``trainer.val_check_interval`` after how many batches to validate; after the last row the first ones come
    again, in another order. Each rank and worker reads its own part: whole files or shards where these can be dealt
    evenly, else every n-th row. Validation and test rows are read whole, checked and counted as in other sets; nothing
    is cut from the stream, and duplicates in it are not looked for. A resumed run starts the stream anew.

    Args:
        train_file: Training rows: a ``.jsonl``, ``.csv``, ``.tsv`` or ``.parquet`` file, a pattern such as
            ``part-*.jsonl``, or a list of these. Give this or ``path``.
        validation_file: Validation rows; unset = the hub set's, if it has them.
        test_file: Test rows; unset = the hub set's, if it has them.
        label_names: The labels' names in the order of their ids; needed, for the rows are not read ahead.
        shuffle_buffer: Rows that each process holds to draw the next one from; 1 = in the order of the files.
        validation_share: Nothing is cut from a stream.
        test_share: Nothing is cut from a stream.
    """

    train_file: str | list[str] | None = None  # type: ignore[assignment]  # of a stream, several
    shuffle_buffer: int = 10_000
    validation_share: float = 0.0
    test_share: float = 0.0

    def __post_init__(self) -> None:
        """Check that nothing is asked which a stream cannot do."""
        super().__post_init__()
        if self.label_names is None and self.problem_type != "regression":
            raise ConfigError("data.label_names: the rows of a stream are not read ahead; name the labels here")
        if self.shuffle_buffer < 1:
            raise ConfigError(f"data.shuffle_buffer: got {self.shuffle_buffer}, needs 1 or more")
        if self.objective is not None:
            raise ConfigError("data: StreamedText is for SequenceClassification; use TextFiles")
        for split in ("validation", "test"):
            if getattr(self, f"{split}_share"):
                raise ConfigError(f"data.{split}_share: nothing is cut from a stream; give data.{split}_file")
        for setting, instead in (("tokens_per_batch", "data.batch_size"), ("max_train_samples", "trainer.max_steps")):
            if getattr(self, setting) is not None:
                raise ConfigError(f"data.{setting}: a stream's rows are not known ahead; use {instead}")

    def load(self) -> dict[str, datasets.Dataset]:
        """Find the training rows' files or shards; return validation and test rows, whole."""
        whole: dict[str, datasets.Dataset] = {}
        if self.path is not None:
            hub = read_hub(self.path, self.name, self.revision, streaming=True)
            if "train" not in hub:
                raise DataError(f"{self.path}: has no train split, only {', '.join(hub)}")
            whole |= {split: _whole(hub[split]) for split in ("validation", "test") if split in hub}
            self.sources = {split: f"{self.path} {split}" for split in ("train", *whole)}
            self._train = _shards(hub["train"], self.sources["train"])
        else:
            patterns = [self.train_file] if isinstance(self.train_file, str) else self.train_file or []
            self.sources = {"train": ", ".join(patterns)}
            self._train = [Source(file, partial(iterate_rows, file)) for file in _matching(patterns)]
        for split, file in {"validation": self.validation_file, "test": self.test_file}.items():
            if file is not None:
                whole[split] = read_rows(file)
                self.sources[split] = file
        return whole

    @cached_property
    def _splits(self) -> Splits:
        """Check validation and test rows, and the first training row of each file, or of a hub set's first shard."""
        splits, reader = self._split(self.load()), self._stream_reader()
        for source in self._train if self.path is None else self._train[:1]:
            first = next(source.read(), None)
            if first is not None:
                reader.read_row(first, source.name, 1)
        return splits

    def probe(self) -> list[Question]:
        """Return a few texts, or pairs."""
        if self.read():
            return super().probe()
        return [_PROBE] if self.text_pair_column else [*_PROBE]

    def _stream_reader(self) -> TextReader:
        return self._text_reader(Cleaner(self.cleaning_steps))  # the manifest does not count what is streamed

    def setup(self, stage: str) -> None:
        """Make sure that training ends and validation comes; map validation and test rows into memory.

        Raises:
            ConfigError: ``trainer.max_steps`` or ``trainer.val_check_interval`` is needed and not set.
        """
        if stage == "fit" and self.trainer is not None:
            if self.trainer.max_steps < 0:
                raise ConfigError("trainer.max_steps: a stream has no end; say after how many steps training ends")
            endless = isinstance(self.trainer.limit_train_batches, float)
            if "validation" in self.read() and endless and isinstance(self.trainer.val_check_interval, float):
                raise ConfigError(
                    "trainer.val_check_interval: a stream has no end to validate at; give a number of batches"
                )
        super().setup(stage)

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of training batches, all of ``batch_size`` rows, without end."""
        self.read()
        rank, world_size = rank_and_world_size(self.trainer)
        return StreamLoader(
            RowStream(
                self._train,
                seed=self._training_seed,
                shuffle_buffer=self.shuffle_buffer,
                rank=rank,
                world_size=world_size,
            ),
            batch_size=self.batch_size,
            collate_fn=StreamCollator(self._stream_reader(), self.get_tokenizer(), self.max_length),
            num_workers=self.num_workers,
            worker_init_fn=_tokenize_alone,
            pin_memory=pin_memory(self.trainer),
        )


def _tokenize_alone(worker: int) -> None:
    """Keep a worker's tokenizer to one thread: a forked process has none of its parent's, and would wait for them."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _matching(patterns: list[str]) -> list[str]:
    """List the files that patterns name, in order."""
    files = []
    for pattern in patterns:
        matching = sorted(glob(pattern)) or [pattern]  # one that is not there is refused by name when it is read
        files += [file for file in matching if file not in files]
    return files


def _shards(rows: datasets.IterableDataset, name: str) -> list[Source]:
    """Take a hub set's stream apart, so that rows can be numbered and shards be dealt."""
    number = rows.num_shards
    return [
        Source(f"{name}, shard {i + 1} of {number}", partial(_iterate, rows.shard(number, i))) for i in range(number)
    ]


def _iterate(rows: datasets.IterableDataset) -> Iterator[dict[str, Any]]:
    """Yield rows. Unlike ``iter(rows)``, ``rows.iter`` does not deal them to workers once more."""
    for columns in rows.iter(batch_size=100):
        for values in zip(*columns.values(), strict=True):
            yield dict(zip(columns, values, strict=True))


def _whole(rows: datasets.IterableDataset) -> datasets.Dataset:
    return datasets.Dataset.from_list(list(rows), features=rows.features)
