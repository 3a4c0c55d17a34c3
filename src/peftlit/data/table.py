"""Rows held as Arrow, made and read a few at a time, so that they are never all Python objects at once."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import datasets

from peftlit.errors import DataError

_AT_ONCE = 1000


def make_rows(columns: Mapping[str, Iterable[Any]]) -> datasets.Dataset:
    """Put columns together into rows.

    ``Dataset.from_dict`` does so too, and then pickles every row to name the set after its content: several times the
    memory, for a name that nothing here asks for.

    Args:
        columns: The values of each column, as many of each; they are taken one row after the other.
    """
    rows = zip(*columns.values(), strict=True)
    parts: list[datasets.table.Table] = []
    while (part := list(islice(rows, _AT_ONCE))) or not parts:
        values = {name: [row[i] for row in part] for i, name in enumerate(columns)}
        parts.append(datasets.table.InMemoryTable.from_pydict(values))
    return datasets.Dataset(datasets.table.concat_tables(parts), fingerprint=uuid.uuid4().hex[:16])


def column_values(rows: datasets.Dataset, column: str, source: str) -> Iterator[Any]:
    """Yield a column's values; Arrow and Parquet decode them only now.

    Args:
        rows: The rows.
        column: The column.
        source: Where the rows are from.

    Raises:
        DataError: A value is not UTF-8.
    """
    values = rows[column]
    for start in range(0, len(rows), _AT_ONCE):
        try:
            part = values[start : start + _AT_ONCE]
        except UnicodeDecodeError:
            for row in range(start, len(rows)):
                try:
                    values[row]
                except UnicodeDecodeError as error:
                    raise DataError(f"{source}, row {row + 1}: {column} holds bytes that are not UTF-8") from error
            raise
        yield from part
