"""The labels of a data set by its ``problem_type``: one class a row, a set of labels, or a value."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import datasets
import torch

from peftlit.batch import ProblemType
from peftlit.data.class_ids import ClassIds, distinct_names, normalize_label
from peftlit.data.table import column_values
from peftlit.errors import DataError

_BINS = 10
_LARGEST = torch.finfo(torch.float32).max


class Labels(ABC):
    """How labels are parsed, split, counted and written.

    Args:
        names: The labels' names in the order of their ids; for values, the column's name alone.
        column: The labels' column.
    """

    problem_type: str

    def __init__(self, names: Sequence[str], column: str) -> None:
        self.names = list(names)
        self.column = column

    @abstractmethod
    def parse(self, value: object, source: str, row: int) -> Any:
        """Return a value as a label; raise a DataError with source and row if it is missing, unknown or no label."""

    def parse_column(self, values: Iterable[object], source: str) -> Iterator[Any]:
        """Parse the values of a column, whose rows count from 1."""
        return (self.parse(value, source, row) for row, value in enumerate(values, 1))

    def check(self, labels: Sequence[Any], source: str) -> list[str]:
        """Raise a DataError if nothing can be learned from these training labels; return warnings for the report."""
        return []

    def strata(self, labels: Sequence[Any], smallest_share: float) -> list[int]:
        """Return each row's stratum for a stratified split whose smallest part is this share."""
        return list(labels)

    def counts(self, labels: Sequence[Any]) -> list[int] | None:
        """Count the rows that carry each label; None where there is nothing to count."""
        return None

    def summary(self, labels: Sequence[Any]) -> dict[str, float]:
        """Return the labels' statistics for a report."""
        return dict(zip(self.names, self.counts(labels) or [], strict=True))

    @abstractmethod
    def to_csv(self, label: Any) -> str:
        """Return a label as one text, different for different labels; row hashes contain it."""


class ClassLabels(Labels):
    """One class a row, given by name or by class id."""

    problem_type = "single_label_classification"

    def __init__(self, names: Sequence[str], column: str) -> None:
        super().__init__(names, column)
        self._ids = ClassIds(names)

    def parse(self, value: object, source: str, row: int) -> int:
        """Return the class id."""
        if not normalize_label(value):
            raise DataError(f"{source}, row {row}: no label in column {self.column!r}; every row needs one")
        return self._ids.find(value, source, row)

    def check(self, labels: Sequence[int], source: str) -> list[str]:
        """Refuse fewer than two classes; report those without rows."""
        counts = self.counts(labels)
        present = [name for name, count in zip(self.names, counts, strict=True) if count]
        if len(present) < 2:
            raise DataError(
                f"{source}: the training rows hold one class only ({present[0] if present else 'none'}); "
                "a classifier needs at least two"
            )
        return [f"no row is {name!r}" for name in self.names if name not in present]

    def counts(self, labels: Sequence[int]) -> list[int]:
        """Count the rows of each class."""
        counted = Counter(labels)
        return [counted[i] for i in range(len(self.names))]

    def to_csv(self, label: int) -> str:
        """Return the class's name."""
        return self.names[label]


class LabelSets(Labels):
    """Any number of labels a row, also none: a list of names or class ids, or a text with names between separators.

    A label set becomes a list with 1.0 for each of ``names`` that the row carries, and 0.0 for the others.
    """

    problem_type = "multi_label_classification"

    def __init__(self, names: Sequence[str], column: str, separator: str) -> None:
        super().__init__(names, column)
        self.separator = separator
        self._ids = ClassIds(names)

    def parse(self, value: object, source: str, row: int) -> list[float]:
        """Return a 1.0 or 0.0 for each name."""
        items = _items(value, self.separator)
        if items is None:
            raise DataError(
                f"{source}, row {row}: {self.column} is {value!r}, needs a list of names or class ids, "
                f"or a text of names with {self.separator!r} between them"
            )
        carried = [0.0] * len(self.names)
        for item in items:
            i = self._ids.find(item, source, row)
            if carried[i]:
                raise DataError(f"{source}, row {row}: label {self.names[i]!r} twice in {value!r}; name it once")
            carried[i] = 1.0
        return carried

    def check(self, labels: Sequence[Sequence[float]], source: str) -> list[str]:
        """Refuse rows that all have no label; report labels that no row or every row carries."""
        counts = dict(zip(self.names, self.counts(labels), strict=True))
        if not any(counts.values()):
            raise DataError(f"{source}: no training row carries a label; there is nothing to learn")
        never = [f"no row carries {name!r}" for name, count in counts.items() if not count]
        return never + [f"every row carries {name!r}" for name, count in counts.items() if count == len(labels)]

    def strata(self, labels: Sequence[Sequence[float]], smallest_share: float) -> list[int]:
        """Number the label sets; those too rare for one row in the smallest part share the stratum -1."""
        sets = [tuple(label) for label in labels]
        common = sorted(s for s, count in Counter(sets).items() if count * smallest_share >= 1)
        numbers = {s: i for i, s in enumerate(common)}
        return [numbers.get(s, -1) for s in sets]

    def counts(self, labels: Sequence[Sequence[float]]) -> list[int]:
        """Count the rows that carry each label."""
        return [sum(bool(label[i]) for label in labels) for i in range(len(self.names))]

    def to_csv(self, label: Sequence[float]) -> str:
        """Return the names of the carried labels."""
        return "\x1e".join(name for name, carried in zip(self.names, label, strict=True) if carried)


class Values(Labels):
    """A value a row: a number, or a text that is one. The column's name is the only label name."""

    problem_type = "regression"

    def __init__(self, column: str) -> None:
        super().__init__([column], column)

    def parse(self, value: object, source: str, row: int) -> float:
        """Return the number."""
        if value is None or not str(value).strip():
            raise DataError(f"{source}, row {row}: no value in column {self.column!r}; every row needs a number")
        number = math.nan
        with suppress(TypeError, ValueError, OverflowError):
            number = float(value)  # type: ignore[arg-type]
        if isinstance(value, bool) or not abs(number) <= _LARGEST:  # false for NaN, too
            raise DataError(f"{source}, row {row}: {self.column} is {value!r}, needs a finite number")
        return number

    def check(self, labels: Sequence[float], source: str) -> list[str]:
        """Refuse a constant."""
        if len(set(labels)) < 2:
            raise DataError(
                f"{source}: {self.column} is {labels[0]:g} in every training row; there is nothing to learn"
            )
        return []

    def strata(self, labels: Sequence[float], smallest_share: float) -> list[int]:
        """Number ten bins between quantiles; equal values share one."""
        ordered = sorted(labels)
        edges = [ordered[i * len(ordered) // _BINS] for i in range(1, _BINS)]
        return [bisect_right(edges, label) for label in labels]

    def summary(self, labels: Sequence[float]) -> dict[str, float]:
        """Return the lowest, mean and highest value."""
        return {"lowest": min(labels), "mean": sum(labels) / len(labels), "highest": max(labels)} if labels else {}

    def to_csv(self, label: float) -> str:
        """Return the number in full precision."""
        return repr(label)


def make_labels(
    problem_type: ProblemType,
    column: str,
    names: Sequence[str] | None,
    separator: str,
    train: datasets.Dataset | None,
    source: str,
) -> Labels:
    """Return the labels of a problem type.

    ``names`` None = those that the data set declares, else the distinct labels of the ``train`` rows, which are from
    ``source``. ``separator`` stands between the names of a label set that is written as a text.
    """
    if problem_type == "regression":
        return Values(column)
    values: Iterable[object] = []
    if names is None and train is not None:
        feature = train.features[column]
        feature = getattr(feature, "feature", feature)  # the items' of a list
        names = feature.names if isinstance(feature, datasets.ClassLabel) else None
        values = column_values(train, column, source) if names is None else []
    if problem_type == "single_label_classification":
        return ClassLabels(names or distinct_names(values), column)
    items = (item for value in values for item in _items(value, separator) or [])
    return LabelSets(names or distinct_names(items), column, separator)


def _items(value: object, separator: str) -> list[object] | None:
    """Return a row's labels, or None if the value is no label set, such as the 0/1 flags ``[0.0, 1.0]``."""
    if isinstance(value, str):
        return [name.strip() for name in value.split(separator)] if value.strip() else []
    if isinstance(value, list) and all(isinstance(item, (str, int)) for item in value):
        return [item.strip() if isinstance(item, str) else item for item in value]
    return None
