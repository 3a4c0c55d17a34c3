"""Turn raw rows into checked and cleaned ones, whatever a data set calls its columns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import datasets

from peftlit.data.checks import check_columns, check_text, checked_texts
from peftlit.data.cleaning import Cleaner
from peftlit.data.labels import Labels
from peftlit.data.table import column_values, make_rows
from peftlit.errors import DataError


class RowReader(ABC):
    """Checks and cleans raw rows.

    Attributes:
        labels: What the rows' labels are.
    """

    labels: Labels

    @abstractmethod
    def read(self, rows: datasets.Dataset, source: str) -> datasets.Dataset:
        """Bring a split's raw rows into the form that all else relies on.

        Returns:
            The columns ``row`` (counted from 1 in the source), ``text``, ``label`` and, for pairs, ``text_pair``.

        Raises:
            DataError: There are no rows, or a value is not what it must be; with file and row.
        """


class TextReader(RowReader):
    """Reads texts or text pairs, with labels or without.

    Args:
        columns: Where ``text`` and, for pairs, ``text_pair`` stand.
        labels: Reads the labels.
        cleaner: Cleans a text.
        strict: Refuse an empty text in a row of a stream; those of whole splits are counted first.
    """

    def __init__(self, columns: Mapping[str, str], labels: Labels, cleaner: Cleaner, *, strict: bool = False) -> None:
        self.columns = dict(columns)
        self.labels = labels
        self.cleaner = cleaner
        self.strict = strict

    def read(self, rows: datasets.Dataset, source: str) -> datasets.Dataset:
        """Read all rows of a split."""
        label, numbers = self.labels.column, range(1, len(rows) + 1)
        if not numbers:
            raise DataError(f"{source}: no {'rows' if label else 'documents'}")
        read: dict[str, Iterable[Any]] = {"row": numbers}
        for name, column in self.columns.items():
            read[name] = map(self.cleaner, checked_texts(rows, column, source))
        read["label"] = self.labels.parse_column(column_values(rows, label, source) if label else numbers, source)
        return make_rows(read)

    def read_row(self, values: Mapping[str, Any], source: str, row: int) -> dict[str, Any]:
        """Read one row of a stream, as :meth:`read` does all rows of a split."""
        check_columns(list(values), [*self.columns.values(), self.labels.column], f"{source}, row {row}")
        read: dict[str, Any] = {"row": row}
        for name, column in self.columns.items():
            check_text(values[column], column, source, row)
            read[name] = self.cleaner(values[column])
            if self.strict and not read[name].strip():
                raise DataError(f"{source}, row {row}: empty text (strict)")
        return {**read, "label": self.labels.parse(values[self.labels.column], source, row)}
