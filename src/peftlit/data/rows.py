"""Which rows a set has, in which split: read, clean, check, cut, describe. Tokens and batches come later."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import datasets

from peftlit.batch import ProblemType
from peftlit.data.checks import RowReport, check_columns, check_texts, refuse_if_strict, report_splits
from peftlit.data.cleaning import Cleaner, CleaningStep
from peftlit.data.files import read_rows, text_values
from peftlit.data.labels import Labels, make_labels
from peftlit.data.manifest import build_manifest, row_hashes
from peftlit.data.split import cut
from peftlit.errors import ConfigError, DataError

log = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")


@dataclass(kw_only=True, eq=False, repr=False)
class TextRows:
    """Texts or text pairs with their labels, by split.

    Args:
        text_column: Column with the text.
        text_pair_column: Column with the second text of a pair, where there is one.
        problem_type: What a label is: one class, a set of labels, or a value.
        label_column: Column with the label. One class: a name or a class id. A set: a list of these, or a text of
            names with ``label_separator`` between them; empty = none. A value: a number, or a text that is one.
        label_names: The labels' names in the order of their ids; unset = the distinct training labels, sorted. For
            values it becomes the label column's name.
        label_separator: What stands between the names of a label set that is written as a text.
        cleaning_steps: Steps applied to every text, in this order: ``html`` (``&amp;`` to ``&``), ``tags``
            (drop ``<br />`` and the like), ``whitespace`` (runs become one space). How many texts each step
            changed is written to the split manifest.
        validation_share: Fraction of all rows to cut for validation where the set brings no such split.
        test_share: Fraction of all rows to cut for test where the set brings no such split.
        split_seed: Seed of the stratified cut. It is apart from the training seed: other seeds, same split.
        max_train_samples: Use only the first so many training rows, of those that are left by the cut.
        strict: Treat empty texts and duplicates within or across splits as errors.

    Attributes:
        sources: Where each split is from, for messages; :meth:`load` may fill it.
        reports: What was found in each split.
    """

    text_column: str = "text"
    text_pair_column: str | None = None
    problem_type: ProblemType = "single_label_classification"
    label_column: str = "label"
    label_names: list[str] | None = None
    label_separator: str = ";"
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
        names = self.label_names or []
        if len(set(names)) < len(names):
            raise ConfigError(f"data.label_names: a name stands there twice: {', '.join(names)}")
        if self.problem_type == "regression" and names not in ([], [self.label_column]):
            raise ConfigError(
                f"data.label_names: regression has no classes, but got {', '.join(names)}; set it to null"
            )
        if not self.label_separator:
            raise ConfigError(
                "data.label_separator: got an empty text, needs what stands between two names, such as ';'"
            )
        self.sources: dict[str, str] = {}
        self.reports: dict[str, RowReport] = {}
        self.lengths: dict[str, dict[str, float]] = {}
        self._splits: dict[str, datasets.Dataset] | None = None
        self._cut: dict[str, float] = {}
        self._limit: int | None = None
        self._cleaner = Cleaner(self.cleaning_steps)

    def load(self) -> dict[str, datasets.Dataset]:
        """Return the raw rows by split: ``train`` and, where the set has them, ``validation`` and ``test``.

        A split that is absent is cut from train by its share. Fill ``self.sources`` with each split's
        file for better messages. Cleaning of your own belongs here, other than ``cleaning_steps``.
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
            Rows by split, with the columns ``row``, ``text``, ``label`` and, for pairs, ``text_pair``. A label is
            a class id; for label sets a list of 0.0 and 1.0, one for each name; or a value.

        Raises:
            DataError: The rows are not what the configuration says.
        """
        if self._splits is None:
            raw = self.load()
            if "train" not in raw:
                raise DataError(
                    f"{type(self).__name__}: load() gave no train split, only {', '.join(raw) or 'nothing'}"
                )
            splits = self._cut_missing(self._normalise(raw))
            notes = self._labels.check(splits["train"]["label"][:], self.sources["train"])
            self._describe(splits)
            self.reports["train"].notes = notes
            for note in notes:
                log.info("train: %s", note)
            self._splits = splits
        return self._splits

    def _normalise(self, raw: dict[str, datasets.Dataset]) -> dict[str, datasets.Dataset]:
        """Settle what the labels are; clean and check the rows. Splits of other names are left out."""
        raw = {split: raw[split] for split in SPLITS if split in raw}
        for split in raw:
            self.sources.setdefault(split, f"{type(self).__name__} {split}")
        columns = self._text_columns
        for split, rows in raw.items():
            check_columns(rows.column_names, [*columns.values(), self.label_column], self.sources[split])
        self._labels: Labels = make_labels(
            self.problem_type, self.label_column, self.label_names, self.label_separator, raw.get("train")
        )
        self.label_names = self._labels.names
        return {
            split: normalise(rows, columns, self._labels, self._cleaner, self.sources[split])
            for split, rows in raw.items()
        }

    @property
    def _text_columns(self) -> dict[str, str]:
        columns = {"text": self.text_column, "text_pair": self.text_pair_column}
        return {name: column for name, column in columns.items() if column is not None}

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
        self.reports = report_splits(splits, self._labels)
        if self.strict:
            refuse_if_strict(self.reports, self.sources)

    @property
    def class_counts(self) -> list[int] | None:
        """Training rows of each class, or that carry each label, in the order of ``label_names``; None for values."""
        train = self.read().get("train")
        return None if train is None else self._labels.counts(train["label"][:])

    def manifest(self) -> dict[str, Any]:
        """Describe the splits: what was cut how, what was found, and each row's hash in order."""
        splits = self.read()
        shares = {"train": 1 - sum(self._cut.values()), **self._cut}
        return build_manifest(
            problem_type=self.problem_type,
            label_names=self.label_names or [],
            cut_from_train={"shares": shares, "seed": self.split_seed} if self._cut else None,
            max_train_samples=self._limit,
            cleaning=self._cleaner.changed,
            reports={split: report.as_dict() for split, report in self.reports.items()},
            row_hashes={split: row_hashes(rows, self._labels) for split, rows in splits.items()},
            sources=self.sources,
            lengths=self.lengths,
        )


def normalise(
    rows: datasets.Dataset,
    text_columns: Mapping[str, str],
    labels: Labels,
    clean: Cleaner,
    source: str,
) -> datasets.Dataset:
    """Bring a split's columns to the names and kinds that all else relies on.

    Args:
        rows: The rows as read.
        text_columns: Where ``text`` and, for pairs, ``text_pair`` stand.
        labels: Reads the labels.
        clean: Cleans one text.
        source: Where the rows are from.

    Returns:
        The columns ``row`` (counted from 1 in the source), ``text``, ``label`` and, for pairs, ``text_pair``.

    Raises:
        DataError: There are no rows, or a value is not what it must be; with file and row.
    """
    if not len(rows):
        raise DataError(f"{source}: no rows")
    columns: dict[str, Any] = {"row": list(range(1, len(rows) + 1))}
    for name, column in text_columns.items():
        texts = text_values(rows, column, source)
        check_texts(texts, column, source)
        columns[name] = [clean(text) for text in texts]
    columns["label"] = labels.parse_column(rows[labels.column][:], source)
    return datasets.Dataset.from_dict(columns)
