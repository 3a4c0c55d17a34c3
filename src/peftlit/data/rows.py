"""Which rows a set has, in which split: read, clean, check, cut, describe. Tokens and batches come later."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import datasets

from peftlit.data.checks import RowReport, describe_splits, refuse_if_strict
from peftlit.data.cleaning import Cleaner, CleaningStep
from peftlit.data.files import read_rows
from peftlit.data.labels import Labels
from peftlit.data.manifest import build_manifest
from peftlit.data.split import cut
from peftlit.data.unlabelled import Unlabelled
from peftlit.errors import ConfigError, DataError

log = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")


@dataclass(kw_only=True, eq=False, repr=False)
class Rows:
    """Rows with a text each, by split. Subclasses say what else a row has.

    Args:
        cleaning_steps: Steps applied to every text, in training and by ``predict``: ``tags`` (drop ``<br />`` and
            other HTML), then ``html`` (``&amp;`` to ``&``), then ``whitespace`` (runs become one space), in whatever
            order they are named. What each step removed is in the split manifest.
        validation_share: Fraction of all rows to cut for validation where the set brings no such split.
        test_share: Fraction of all rows to cut for test where the set brings no such split.
        split_seed: Seed of the cut, and of the rows that a limited evaluation scores. It is apart from the training
            seed: other seeds, same split.
        max_train_samples: Use only the first so many training rows, of those that are left by the cut.
        strict: Treat empty texts and duplicates within or across splits as errors.

    Attributes:
        sources: Where each split is from, for messages; :meth:`load` may fill it.
        reports: What was found in each split.
    """

    cleaning_steps: list[CleaningStep] = field(default_factory=list)
    validation_share: float = 0.1
    test_share: float = 0.1
    split_seed: int = 42
    max_train_samples: int | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        """Check ranges; nothing is read yet."""
        for name in ("validation_share", "test_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"data.{name}: got {getattr(self, name)}, needs a fraction from 0 to below 1")
        if self.validation_share + self.test_share >= 1:
            raise ConfigError(
                f"data: validation_share {self.validation_share} and test_share {self.test_share} leave no train rows"
            )
        if self.max_train_samples is not None and self.max_train_samples < 1:
            raise ConfigError(f"data.max_train_samples: got {self.max_train_samples}, needs 1 or more")
        self.sources: dict[str, str] = {}
        self.reports: dict[str, RowReport] = {}
        self.lengths: dict[str, dict[str, float]] = {}
        self._row_hashes: dict[str, list[str]] = {}
        self._labels: Labels = Unlabelled()
        self._splits: dict[str, datasets.Dataset] | None = None
        self._cut: dict[str, float] = {}
        self._limit: int | None = None
        self._cleaner = Cleaner(self.cleaning_steps)

    def load(self) -> dict[str, datasets.Dataset]:
        """Return the raw rows by split: ``train`` and, where the set has them, ``validation`` and ``test``.

        A split that is absent is cut from train by its share. Fill ``self.sources`` with each split's
        file for better messages. What is done to a text here is not in the export, as ``cleaning_steps`` are:
        do it to the texts that you ask about, too.
        """
        raise NotImplementedError(f"{type(self).__name__} must say where its rows are")

    def load_files(self, files: Mapping[str, str]) -> dict[str, datasets.Dataset]:
        """Return the rows of local files, and note where they are from.

        Args:
            files: The file of each split.
        """
        self.sources = dict(files)
        return {split: read_rows(file) for split, file in files.items()}

    def read(self) -> dict[str, datasets.Dataset]:
        """Read, check and split the rows, once. No tokenizer and no weights are needed for it.

        Returns:
            Rows by split, with the columns ``row``, ``text`` and what else the kind of set has.

        Raises:
            DataError: The rows are not what the configuration says.
        """
        if self._splits is None:
            raw = self.load()
            if "train" not in raw:
                raise DataError(
                    f"{type(self).__name__}: load() gave no train split, only {', '.join(raw) or 'nothing'}"
                )
            splits = self._cut_missing(self._settle(raw))
            notes = self._labels.check(splits["train"]["label"][:], self.sources["train"])
            self._describe(splits)
            self.reports["train"].notes = notes
            for note in notes:
                log.info("train: %s", note)
            self._splits = splits
        return self._splits

    def _settle(self, raw: dict[str, datasets.Dataset]) -> dict[str, datasets.Dataset]:
        """Name the splits' sources, and bring their columns into one form. Splits of other names are left out."""
        raw = {split: raw[split] for split in SPLITS if split in raw}
        for split in raw:
            self.sources.setdefault(split, f"{type(self).__name__} {split}")
        return self._normalise(raw)

    @abstractmethod
    def _normalise(self, raw: dict[str, datasets.Dataset]) -> dict[str, datasets.Dataset]:
        """Clean and check the rows of each split.

        Args:
            raw: The rows as read.

        Returns:
            Rows with ``row`` (counted from 1 in the source), ``text``, ``label``, and what else the set has.
        """

    def _cut_missing(self, splits: dict[str, datasets.Dataset]) -> dict[str, datasets.Dataset]:
        """Cut the splits that the set does not bring from train, then limit train."""
        shares = {"validation": self.validation_share, "test": self.test_share}
        self._cut = {name: share for name, share in shares.items() if name not in splits and share > 0}
        if self._cut:
            source = self.sources["train"]
            splits |= cut(splits["train"], self._cut, self._labels, self.split_seed, source)
            self.sources |= dict.fromkeys(self._cut, source)
        if self.max_train_samples is not None and self.max_train_samples < len(splits["train"]):
            self._limit = self.max_train_samples
            splits["train"] = splits["train"].select(range(self._limit))
        return {split: splits[split] for split in SPLITS if split in splits}

    def _describe(self, splits: dict[str, datasets.Dataset]) -> None:
        self.reports, self._row_hashes = describe_splits(splits, self._labels)
        if self._cleaner.steps:
            log.info("cleaning: %s", self._cleaner.summary())
        if self.strict:
            refuse_if_strict(self.reports, self.sources)

    def manifest(self) -> dict[str, Any]:
        """Describe the splits: what was cut how, what was found, and each row's hash in order."""
        self.read()
        shares = {"train": 1 - sum(self._cut.values()), **self._cut}
        return build_manifest(
            problem_type=self._labels.problem_type,
            label_names=self._labels.names,
            cut_from_train={"shares": shares, "seed": self.split_seed} if self._cut else None,
            max_train_samples=self._limit,
            cleaning=self._cleaner.changed,
            removed_characters=self._cleaner.removed,
            reports={split: report.as_dict() for split, report in self.reports.items()},
            row_hashes=self._row_hashes,
            sources=self.sources,
            lengths=self.lengths,
        )
