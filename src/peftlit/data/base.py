"""The data module that all data sets share: rows are read, cleaned and split, and their tokens become batches."""

import logging
import os
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Any, Literal

import datasets
from lightning import LightningDataModule
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from peftlit.batch import DataSpec, Objective
from peftlit.data import lengths
from peftlit.data.batches import count_sampled, make_loader, rank_and_world_size, training_position
from peftlit.data.checks import RowReport
from peftlit.data.cleaning import Cleaner, CleaningStep
from peftlit.data.collate import Collator
from peftlit.data.encode import Columns, map_once, tokenizer_state
from peftlit.data.files import read_rows
from peftlit.data.messages import Question
from peftlit.data.rows import RowReader
from peftlit.data.sampler import LengthGroupedSampler
from peftlit.data.split import SPLITS, Splits, Splitter
from peftlit.data.tokenizer import load_tokenizer
from peftlit.errors import ConfigError, DataError

log = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False, repr=False)
class TokenDataModule(LightningDataModule):
    """Rows by split, their tokens, and batches of them.

    Args:
        cleaning_steps: Steps applied to every text, in training and by ``predict``: ``tags`` (drop ``<br />`` and
            other HTML), then ``html`` (``&amp;`` to ``&``), then ``whitespace`` (runs become one space), in whatever
            order they are named. What each step removed is in the split manifest.
        validation_share: Fraction of all rows to cut for validation where the set brings no such split.
        test_share: Fraction of all rows to cut for test where the set brings no such split.
        split_seed: Seed of the cut, and of the rows that a limited evaluation scores; not the seed of training.
        max_train_samples: Use only the first so many training rows, of those that are left by the cut.
        strict: Treat empty texts and duplicates within or across splits as errors.
        tokenizer: Hub id or folder of the tokenizer; unset = the backbone's.
        tokenizer_revision: Branch, tag or commit of the tokenizer; unset = the backbone's.
        trust_remote_code: Run Python code that comes with the tokenizer.
        max_length: Tokens per row at most; longer rows are cut.
        batch_size: Rows per batch and device.
        eval_batch_size: Rows per batch in validation and test; unset = twice ``batch_size``.
        tokens_per_batch: Padded tokens per training batch at most; ``batch_size`` is then the upper bound of rows.
        group_by_length: Batch rows of similar length together (less padding); False = plain shuffling.
        padding_side: Side to pad on; unset = the tokenizer's own.
        objective: What a language model learns of the rows, ``causal`` or ``masked``; linked from the model.
        seed: Seed of the training order; unset = ``seed_everything``.
        num_workers: Processes that load batches, per loader; 0 = in the main process.
        num_proc: Processes that tokenize. Tokenizers use all cores by themselves, so 1 is seldom slower.
    """

    cleaning_steps: list[CleaningStep] = field(default_factory=list)
    validation_share: float = 0.1
    test_share: float = 0.1
    split_seed: int = 42
    max_train_samples: int | None = None
    strict: bool = False
    tokenizer: str | None = None
    tokenizer_revision: str | None = None
    trust_remote_code: bool = False
    max_length: int = 128
    batch_size: int = 16
    eval_batch_size: int | None = None
    tokens_per_batch: int | None = None
    group_by_length: bool = True
    padding_side: Literal["left", "right"] | None = None
    objective: Objective | None = None
    seed: int | None = None
    num_workers: int = 0
    num_proc: int = 1

    def __post_init__(self) -> None:
        """Check ranges; nothing is read yet."""
        super().__init__()
        for name in (
            "max_length",
            "batch_size",
            "num_proc",
            "eval_batch_size",
            "tokens_per_batch",
            "max_train_samples",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"data.{name}: got {value}, needs 1 or more")
        self._make_splitter()  # refuses shares that leave nothing
        self._cleaner = Cleaner(self.cleaning_steps)
        self.sources: dict[str, str] = {}
        self.lengths: dict[str, dict[str, float]] = {}
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._encoded: dict[str, datasets.Dataset] = {}
        self._rows_scored: dict[str, int | None] = {}
        self._resume_at = (0, 0)

    def _make_splitter(self) -> Splitter:
        shares = {"validation": self.validation_share, "test": self.test_share}
        return Splitter(shares, seed=self.split_seed, max_train_samples=self.max_train_samples, strict=self.strict)

    def load(self) -> dict[str, datasets.Dataset]:
        """Return the rows of ``train`` and, if they are not to be cut from it, of ``validation`` and ``test``.

        Fill ``self.sources`` with each split's file for messages. ``predict`` does not do what is done to a text here.
        """
        raise NotImplementedError(f"{type(self).__name__} must say where its rows are")

    @abstractmethod
    def _reader(self, raw: Mapping[str, datasets.Dataset]) -> RowReader:
        """Return what checks and cleans the raw rows of a split."""

    @abstractmethod
    def _encode(self, split: str) -> datasets.Dataset:
        """Tokenize a split, or take it from the cache: what the collator takes, ``row``, and ``length`` in tokens."""

    @abstractmethod
    def _collator(self, split: str) -> Collator:
        """Return what makes batches of a split's encoded rows."""

    def _map_once(self, split: str, encode: Callable[[Columns], Columns], *key: Any) -> datasets.Dataset:
        """Encode the columns of a split's rows, or take what came of it from the cache.

        Args:
            split: The split.
            encode: Does so with some rows at a time; other processes get a copy of it, so it must not hold this module.
            key: What its result depends on, as JSON, beside the rows and the tokenizer.
        """
        rows, whole_key = self.read()[split], [self._splits.cache_key(split, self.tokenizer_sha256), *key]
        return map_once(
            rows, encode, whole_key, num_proc=self.num_proc, desc=f"tokenizing {split}", remove=rows.column_names
        )

    def load_files(self, files: Mapping[str, str]) -> dict[str, datasets.Dataset]:
        """Return the rows of local files, one for each split, and note where they are from."""
        self.sources = dict(files)
        return {split: read_rows(file) for split, file in files.items()}

    def read(self) -> dict[str, datasets.Dataset]:
        """Read, check and split the rows, once; no tokenizer and no weights are needed for it."""
        return self._splits.rows

    @cached_property
    def _splits(self) -> Splits:
        raw = self.load()
        if "train" not in raw:
            raise DataError(f"{type(self).__name__}: load() gave no train split, only {', '.join(raw) or 'nothing'}")
        return self._split(raw)

    def _split(self, raw: dict[str, datasets.Dataset]) -> Splits:
        """Check, clean and split rows; splits of other names are left out."""
        raw = {split: raw[split] for split in SPLITS if split in raw}
        self.sources = {split: f"{type(self).__name__} {split}" for split in raw} | self.sources
        reader = self._reader(raw)
        rows = {split: reader.read(part, self.sources[split]) for split, part in raw.items()}
        if self._cleaner.steps:
            log.info("cleaning: %s", self._cleaner.summary())
        return self._make_splitter().split(rows, reader.labels, self.sources)

    @property
    def reports(self) -> dict[str, RowReport]:
        """What was found in each split."""
        return self._splits.reports

    def manifest(self) -> dict[str, Any]:
        """Describe the splits: what was cut how, what was found, and each row's hash in order."""
        return self._splits.manifest(self._cleaner, self.lengths)

    def rows_scored(self, split: str) -> int:
        """Return how many rows of a split the Trainer scores: all, or as many as its limit leaves."""
        return self._rows_scored.get(split) or self.reports[split].rows

    def probe(self) -> list[Question]:
        """Return a few rows to compare answers on: not of the training rows where there are others."""
        return self._splits.probe()

    def get_tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the tokenizer, loaded once."""
        if self._tokenizer is None:
            if self.tokenizer is None:
                raise ConfigError("data.tokenizer: the backbone has random weights and no tokenizer; name one")
            tokenizer = load_tokenizer(
                self.tokenizer,
                revision=self.tokenizer_revision,
                trust_remote_code=self.trust_remote_code,
                padding_side=self.padding_side,
                max_length=self.max_length,
            )
            self._check_tokenizer(tokenizer)
            # taken before first use: a tokenizer stores the truncation of its last call in itself
            self._tokenizer_sha256 = sha256(tokenizer_state(tokenizer).encode()).hexdigest()
            self._tokenizer = tokenizer
        return self._tokenizer

    def _check_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Refuse a tokenizer that cannot do what is asked."""

    @property
    def tokenizer_sha256(self) -> str:
        """A name of what makes tokens of the rows: two that differ may give other tokens."""
        self.get_tokenizer()
        return self._tokenizer_sha256

    def data_spec(self) -> DataSpec:
        """Return what a task has to know of the rows, once they are read."""
        train, tokenizer = self.reports.get("train"), self.get_tokenizer()
        return DataSpec(
            tokenizer_size=len(tokenizer),
            pad_token_id=int(tokenizer.pad_token_id),
            padding_side="left" if tokenizer.padding_side == "left" else "right",
            max_length=self.max_length,
            num_rows=train.rows if train else None,
            cleaning_steps=self._cleaner.steps,
        )

    def prepare_data(self) -> None:
        """Read, check and tokenize once per machine; other processes find the rows in the cache."""
        for split in self.read():
            self._encode(split)

    def setup(self, stage: str) -> None:
        """Map the tokenized rows of the splits that a stage needs into memory."""
        _, processes = rank_and_world_size(self.trainer)
        needed = {"fit": ("train", "validation"), "validate": ("validation",)}.get(stage, ("test",))
        for split in [split for split in needed if split in self.read()]:
            encoded = self._encoded[split] = self._encode(split)
            if 0 < len(encoded) < processes:
                raise ConfigError(
                    f"trainer.devices: {processes} processes cannot share the {len(encoded)} rows of {split}; "
                    f"set {len(encoded)} or fewer"
                )

    def _note_lengths(self, split: str, tokens: Sequence[int], noun: str = "rows", what: str = "cut to") -> None:
        if split not in self.lengths:
            self.lengths[split] = lengths.summarise(tokens, self.max_length)
            log.info("%s", lengths.line(split, self.lengths[split], noun, what))

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of training batches."""
        return self._loader("train", self.batch_size)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Return the loader of validation batches, none where there is no validation split."""
        return self._evaluation_loader("validation", "val")

    def test_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Return the loader of test batches, none where there is no test split."""
        return self._evaluation_loader("test", "test")

    def predict_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Return the loader of the test rows."""
        return self._evaluation_loader("test", "predict")

    def state_dict(self) -> dict[str, Any]:
        """Return where training stands: the epoch, and how many of its batches are done."""
        return training_position(self.trainer)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where training stood."""
        self._resume_at = (state_dict["epoch"], state_dict["batches"])
        # Lightning looks for the place in the loader, and it is here
        warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")

    @property
    def _training_seed(self) -> int:
        return self.seed if self.seed is not None else int(os.environ.get("PL_GLOBAL_SEED", 0))

    def _dataset(self, split: str) -> Any:
        return self._encoded[split]

    def _loader(self, split: str, batch_size: int, limit: float = 1.0) -> DataLoader[Any]:
        is_train = split == "train"
        rank, world_size = rank_and_world_size(self.trainer)
        sampler = LengthGroupedSampler(
            self._encoded[split]["length"][:],
            batch_size,
            shuffle=is_train,
            seed=self._training_seed if is_train else self.split_seed,
            group_by_length=self.group_by_length,
            tokens_per_batch=self.tokens_per_batch,
            rank=rank,
            world_size=world_size,
            resume_at=self._resume_at if is_train else (0, 0),
            limit=limit,
        )
        return make_loader(
            self._dataset(split), sampler, self._collator(split), self.trainer, self._training_seed, self.num_workers
        )

    def _evaluation_loader(self, split: str, stage: Literal["val", "test", "predict"]) -> DataLoader[Any] | list[Any]:
        if split not in self._encoded:
            return []
        setting, batch_size = f"limit_{stage}_batches", self.eval_batch_size or 2 * self.batch_size
        loader = self._loader(split, batch_size, getattr(self.trainer, setting) if self.trainer else 1.0)
        scored = count_sampled(self._encoded[split], loader.sampler.taken_rows())  # type: ignore[attr-defined]
        if scored and scored != self._rows_scored.get(split):
            log.info("%s: a random sample of %d rows is scored (trainer.%s)", split, scored, setting)
        self._rows_scored[split] = scored
        return loader
