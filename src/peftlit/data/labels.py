"""What the labels of a set are: one class a row, a set of labels, or a value. Chosen once, by ``problem_type``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import datasets
import torch

from peftlit.batch import ProblemType
from peftlit.data.spelling import ClassIds, distinct_names, spelled
from peftlit.data.table import column_values
from peftlit.errors import DataError

_BINS = 10
_LARGEST = torch.finfo(torch.float32).max


class Labels(ABC):
    """How labels are read, dealt to splits, counted and spelled.

    Args:
        names: The labels' names in the order of their ids; for values, the column's name alone.
        column: The column they stand in.
    """

    problem_type: str

    def __init__(self, names: Sequence[str], column: str) -> None:
        self.names = list(names)
        self.column = column

    @abstractmethod
    def parse(self, value: object, source: str, row: int) -> Any:
        """Turn one value into a label.

        Args:
            value: The value as read.
            source: Where it is from.
            row: The row's number there.

        Raises:
            DataError: It is missing, unknown or of another kind.
        """

    def parse_column(self, values: Iterable[object], source: str) -> Iterator[Any]:
        """Turn a column's values into labels.

        Args:
            values: The values as read.
            source: Where they are from; its rows count from 1.

        Raises:
            DataError: As :meth:`parse` does, for the first such row.
        """
        return (self.parse(value, source, row) for row, value in enumerate(values, 1))

    @abstractmethod
    def check(self, labels: Sequence[Any], source: str) -> list[str]:
        """Refuse training labels that nothing can be learned from; return what else is worth a look.

        Args:
            labels: The training labels.
            source: Where they are from.

        Raises:
            DataError: Saying why there is nothing to learn.
        """

    @abstractmethod
    def strata(self, labels: Sequence[Any], smallest_share: float) -> list[int]:
        """Number the groups of rows that a stratified cut deals by their shares.

        Args:
            labels: The labels.
            smallest_share: The smallest of the shares.
        """

    @abstractmethod
    def counts(self, labels: Sequence[Any]) -> list[int] | None:
        """Count the rows that carry each label; None for values.

        Args:
            labels: The labels.
        """

    def summary(self, labels: Sequence[Any]) -> dict[str, float]:
        """Return what a report says of the labels.

        Args:
            labels: The labels.
        """
        return dict(zip(self.names, self.counts(labels) or [], strict=True))

    @abstractmethod
    def spell(self, label: Any) -> str:
        """Spell a label for a row's hash.

        Args:
            label: The label.
        """


class ClassLabels(Labels):
    """One class a row: a name becomes its position, an integer is taken as the id."""

    problem_type = "single_label_classification"

    def __init__(self, names: Sequence[str], column: str) -> None:
        super().__init__(names, column)
        self._ids = ClassIds(names)

    def parse(self, value: object, source: str, row: int) -> int:
        """Return the class id."""
        if not spelled(value):
            raise DataError(f"{source}, row {row}: no label in column {self.column!r}; every row needs one")
        return self._ids.find(value, source, row)

    def check(self, labels: Sequence[int], source: str) -> list[str]:
        """Refuse fewer than two classes; name those without a row."""
        counts = self.counts(labels)
        present = [name for name, count in zip(self.names, counts, strict=True) if count]
        if len(present) < 2:
            raise DataError(
                f"{source}: the training rows hold one class only ({present[0] if present else 'none'}); "
                "a classifier needs at least two"
            )
        return [f"no row is {name!r}" for name in self.names if name not in present]

    def strata(self, labels: Sequence[int], smallest_share: float) -> list[int]:
        """Return the class ids themselves."""
        return list(labels)

    def counts(self, labels: Sequence[int]) -> list[int]:
        """Count the rows of each class."""
        counted = Counter(labels)
        return [counted[i] for i in range(len(self.names))]

    def spell(self, label: int) -> str:
        """Return the class's name."""
        return self.names[label]


class LabelSets(Labels):
    """Any number of labels a row: a list of names or class ids, or a text of names with a separator between them.

    A label set becomes a list of 0.0 and 1.0, one for each name. A row without labels is a row like others.

    Args:
        names: The labels' names in the order of their ids.
        column: The column they stand in.
        separator: What stands between the names of a text.
    """

    problem_type = "multi_label_classification"

    def __init__(self, names: Sequence[str], column: str, separator: str) -> None:
        super().__init__(names, column)
        self.separator = separator
        self._ids = ClassIds(names)

    def parse(self, value: object, source: str, row: int) -> list[float]:
        """Return 1.0 for each label that the row carries, 0.0 for the others."""
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
        """Refuse rows without any label; name the labels that no row or every row carries."""
        counts = dict(zip(self.names, self.counts(labels), strict=True))
        if not any(counts.values()):
            raise DataError(f"{source}: no training row carries a label; there is nothing to learn")
        never = [f"no row carries {name!r}" for name, count in counts.items() if not count]
        return never + [f"every row carries {name!r}" for name, count in counts.items() if count == len(labels)]

    def strata(self, labels: Sequence[Sequence[float]], smallest_share: float) -> list[int]:
        """Number the label sets; those too rare for one row of the smallest share go into one group, -1."""
        sets = [tuple(label) for label in labels]
        common = sorted(s for s, count in Counter(sets).items() if count * smallest_share >= 1)
        numbers = {s: i for i, s in enumerate(common)}
        return [numbers.get(s, -1) for s in sets]

    def counts(self, labels: Sequence[Sequence[float]]) -> list[int]:
        """Count the rows that carry each label."""
        return [sum(bool(label[i]) for label in labels) for i in range(len(self.names))]

    def spell(self, label: Sequence[float]) -> str:
        """Return the names of the carried labels."""
        return "\x1e".join(name for name, carried in zip(self.names, label, strict=True) if carried)


class Values(Labels):
    """A value a row: a number, or a text that is one.

    Args:
        column: The column it stands in; its name is the only label name.
    """

    problem_type = "regression"

    def __init__(self, column: str) -> None:
        super().__init__([column], column)

    def parse(self, value: object, source: str, row: int) -> float:
        """Return the number."""
        if value is None or not str(value).strip():
            raise DataError(f"{source}, row {row}: no value in column {self.column!r}; every row needs a number")
        try:
            number = float(value) if not isinstance(value, bool) else None  # type: ignore[arg-type]  # hence the try
        except (TypeError, ValueError):
            number = None
        if number is None or not abs(number) <= _LARGEST:  # NaN is not either
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
        """Number the bins between ten quantiles; equal values share one."""
        ordered = sorted(labels)
        edges = [ordered[i * len(ordered) // _BINS] for i in range(1, _BINS)]
        return [bisect_right(edges, label) for label in labels]

    def counts(self, labels: Sequence[float]) -> None:
        """Values are not counted."""

    def summary(self, labels: Sequence[float]) -> dict[str, float]:
        """Return the lowest, the mean and the highest value."""
        return {"lowest": min(labels), "mean": sum(labels) / len(labels), "highest": max(labels)} if labels else {}

    def spell(self, label: float) -> str:
        """Return the number, in full."""
        return repr(label)


def make_labels(
    problem_type: ProblemType,
    column: str,
    names: Sequence[str] | None,
    separator: str,
    train: datasets.Dataset | None,
    source: str,
) -> Labels:
    """Choose the kind of labels, and name them: as told, as the set declares, or by what the training rows hold.

    Args:
        problem_type: The kind.
        column: The column they stand in.
        names: The labels' names; None = find them.
        separator: What stands between the names of a text.
        train: The training rows; not needed where names are given.
        source: Where they are from.
    """
    if problem_type == "regression":
        return Values(column)
    values: Iterable[object] = []
    if names is None and train is not None:
        feature = train.features[column]
        feature = getattr(feature, "feature", feature)  # of a list, its items'
        names = feature.names if isinstance(feature, datasets.ClassLabel) else None
        values = column_values(train, column, source) if names is None else []
    if problem_type == "single_label_classification":
        return ClassLabels(names or distinct_names(values), column)
    items = (item for value in values for item in _items(value, separator) or [])
    return LabelSets(names or distinct_names(items), column, separator)


def _items(value: object, separator: str) -> list[object] | None:
    """List the labels of a row; None where the value can hold none. ``[0.0, 1.0]`` are flags, not class ids."""
    if isinstance(value, str):
        return [name.strip() for name in value.split(separator)] if value.strip() else []
    if isinstance(value, list) and all(isinstance(item, (str, int)) for item in value):
        return [item.strip() if isinstance(item, str) else item for item in value]
    return None
