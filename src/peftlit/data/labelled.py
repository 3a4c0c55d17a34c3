"""Texts or text pairs with labels: one class a row, a set of labels, or a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import datasets

from peftlit.batch import ProblemType
from peftlit.data.base import TokenDataModule
from peftlit.data.checks import check_columns, check_texts
from peftlit.data.cleaning import Cleaner
from peftlit.data.collate import Collator, PadCollator
from peftlit.data.encode import encode
from peftlit.data.files import text_values
from peftlit.data.labels import Labels, make_labels
from peftlit.errors import ConfigError, DataError


@dataclass(kw_only=True, eq=False, repr=False)
class TextDataModule(TokenDataModule):
    """Texts or text pairs with their labels. A data set of your own implements :meth:`load`.

    Args:
        text_column: Column with the text.
        text_pair_column: Column with the second text of a pair, where there is one.
        problem_type: What a label is: one class, a set of labels, or a value.
        label_column: Column with the label. One class: a name or a class id. A set: a list of these, or a text of
            names with ``label_separator`` between them; empty = none. A value: a number, or a text that is one.
        label_names: The labels' names in the order of their ids; unset = the distinct training labels, sorted. For
            values it becomes the label column's name.
        label_separator: What stands between the names of a label set that is written as a text.
    """

    text_column: str = "text"
    text_pair_column: str | None = None
    problem_type: ProblemType = "single_label_classification"
    label_column: str = "label"
    label_names: list[str] | None = None
    label_separator: str = ";"

    def __post_init__(self) -> None:
        """Check ranges; nothing is read yet."""
        super().__post_init__()
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

    def _normalise(self, raw: dict[str, datasets.Dataset]) -> dict[str, datasets.Dataset]:
        """Settle what the labels are; clean and check the rows."""
        columns = self._text_columns
        for split, rows in raw.items():
            check_columns(rows.column_names, [*columns.values(), self.label_column], self.sources[split])
        self._labels = make_labels(
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

    @property
    def class_counts(self) -> list[int] | None:
        """Training rows of each class, or that carry each label, in the order of ``label_names``; None for values."""
        train = self.read().get("train")
        return None if train is None else self._labels.counts(train["label"][:])

    def _encode(self, split: str) -> datasets.Dataset:
        tokenizer, rows = self.get_tokenizer(), self.read()[split]
        encoded = encode(rows, tokenizer, self._tokenizer_state, self.max_length, self.num_proc, split)
        self._note_lengths(split, encoded["tokens"][:])
        return encoded

    def _collator(self, split: str) -> Collator:
        return PadCollator(self.get_tokenizer())


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
