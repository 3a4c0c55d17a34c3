"""What must hold for rows before any weight is loaded, and what is counted and reported."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import datasets

from peftlit.errors import DataError

PAIR_SEPARATOR = "\x1e"
"""Stands between the two texts of a pair where they are compared as one."""

_NUMBER = re.compile(r"-?[0-9]+")
_LISTED = 20
"""At most so many row numbers are listed in a report."""


@dataclass
class RowReport:
    """Rows of one split that are worth a look. Row numbers count from 1 in the source.

    Attributes:
        rows: Number of rows.
        labels: Rows of each class.
        empty_texts: Number of texts that are empty or white space.
        empty_text_rows: The first of their row numbers.
        duplicates: Rows whose text repeats an earlier row of the same split.
        duplicate_rows: The first of their row numbers.
        duplicates_of: Number of rows whose text also stands in another split, by split.
        duplicate_rows_of: The first of their row numbers, by split.
    """

    rows: int
    labels: dict[str, int]
    empty_texts: int = 0
    empty_text_rows: list[int] = field(default_factory=list)
    duplicates: int = 0
    duplicate_rows: list[int] = field(default_factory=list)
    duplicates_of: dict[str, int] = field(default_factory=dict)
    duplicate_rows_of: dict[str, list[int]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        """Return the report as plain JSON values."""
        return asdict(self)


def check_columns(rows: datasets.Dataset, wanted: Sequence[str], source: str) -> None:
    """Refuse rows that lack a column.

    Args:
        rows: The rows.
        wanted: The columns that are used.
        source: Where the rows are from.

    Raises:
        DataError: Naming the column, the nearest one, and all there are.
    """
    check_names(rows.column_names, wanted, source)


def check_names(columns: Sequence[str], wanted: Sequence[str], source: str) -> None:
    """Refuse a table that lacks a column.

    Args:
        columns: The columns there are.
        wanted: The columns that are used.
        source: Where the rows are from.

    Raises:
        DataError: Naming the column, the nearest one, and all there are.
    """
    for name in wanted:
        if name not in columns:
            near = difflib.get_close_matches(name, columns, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise DataError(f"{source}: no column {name!r}; {hint}its columns are {', '.join(columns)}")


def joined_texts(rows: datasets.Dataset) -> list[str]:
    """Return one text per row; the two of a pair joined.

    Args:
        rows: Rows with ``text`` and, for pairs, ``text_pair``.
    """
    texts: list[str] = rows["text"][:]
    if "text_pair" not in rows.column_names:
        return texts
    return [f"{a}{PAIR_SEPARATOR}{b}" for a, b in zip(texts, rows["text_pair"][:], strict=True)]


def check_texts(texts: Sequence[object], column: str, source: str) -> None:
    """Refuse rows without a text, or with something else in its place.

    Args:
        texts: The column's values.
        column: The column's name.
        source: Where the rows are from.

    Raises:
        DataError: Naming the row.
    """
    for row, text in enumerate(texts, 1):
        if not isinstance(text, str):
            raise DataError(f"{source}, row {row}: {column} is {text!r}, needs a text")


def infer_label_names(values: Sequence[object]) -> list[str]:
    """List the distinct labels, numbers by size and names by alphabet.

    Args:
        values: The training labels.
    """
    distinct = {_spelled(v) for v in values} - {""}
    return sorted(distinct, key=lambda v: (0, int(v), v) if _NUMBER.fullmatch(v) else (1, 0, v))


def _spelled(value: object) -> str:
    """Spell a label: ``1.0`` as ``1``, and a missing one (None, NaN, white space) as an empty text."""
    if value is None or value != value:  # NaN alone differs from itself
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if str(value).strip() else ""


def label_ids(values: Sequence[object], names: Sequence[str], column: str, source: str) -> list[int]:
    """Turn labels into class ids: a name becomes its position, an integer is taken as the id.

    Args:
        values: The column's values.
        names: The classes' names in the order of their ids.
        column: The column's name.
        source: Where the rows are from.

    Raises:
        DataError: A label is missing or unknown, with its row.
    """
    known: dict[str, int] = {name: i for i, name in enumerate(names)}
    if not any(_NUMBER.fullmatch(name) for name in names):  # where names are numbers, a number is a name
        known = {str(i): i for i in range(len(names))} | known
    ids = []
    for row, value in enumerate(values, 1):
        text = _spelled(value)
        if not text:
            raise DataError(f"{source}, row {row}: no label in column {column!r}; every row needs one")
        if text not in known:
            near = difflib.get_close_matches(text, names, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise DataError(f"{source}, row {row}: unknown label {value!r}; {hint}known are {', '.join(names)}")
        ids.append(known[text])
    return ids


def check_classes(ids: Sequence[int], names: Sequence[str], source: str) -> None:
    """Refuse training rows that do not hold at least two classes.

    Args:
        ids: The training rows' class ids.
        names: The classes' names.
        source: Where the rows are from.

    Raises:
        DataError: Naming the only class.
    """
    present = sorted(set(ids))
    if len(present) < 2:
        only = names[present[0]] if present else "none"
        raise DataError(f"{source}: the training rows hold one class only ({only}); a classifier needs at least two")


def report_rows(texts: Sequence[str], ids: Sequence[int], rows: Sequence[int], names: Sequence[str]) -> RowReport:
    """Count classes, empty texts and duplicates of one split.

    Args:
        texts: The texts; pairs joined.
        ids: Their class ids.
        rows: Their row numbers in the source.
        names: The classes' names.
    """
    counts = Counter(ids)
    empty = [r for r, text in zip(rows, texts, strict=True) if not all(map(str.strip, text.split(PAIR_SEPARATOR)))]
    seen: set[str] = set()
    repeated = []
    for row, text in zip(rows, texts, strict=True):
        if text in seen:
            repeated.append(row)
        seen.add(text)
    return RowReport(
        rows=len(texts),
        labels={name: counts[i] for i, name in enumerate(names)},
        empty_texts=len(empty),
        empty_text_rows=empty[:_LISTED],
        duplicates=len(repeated),
        duplicate_rows=repeated[:_LISTED],
    )


def compare_splits(report: RowReport, texts: Sequence[str], rows: Sequence[int], other: str, theirs: set[str]) -> None:
    """Count the rows whose text also stands in another split.

    Args:
        report: The split's report, completed in place.
        texts: The split's texts; pairs joined.
        rows: Their row numbers in the source.
        other: Name of the other split.
        theirs: The other split's texts.
    """
    shared = [row for row, text in zip(rows, texts, strict=True) if text in theirs]
    if shared:
        report.duplicates_of[other] = len(shared)
        report.duplicate_rows_of[other] = shared[:_LISTED]


def refuse_if_strict(reports: dict[str, RowReport], sources: dict[str, str]) -> None:
    """Turn what was counted into an error.

    Args:
        reports: Each split's report.
        sources: Where each split is from.

    Raises:
        DataError: The first finding, with its row.
    """
    for split, report in reports.items():
        where = sources[split]
        if report.empty_texts:
            raise DataError(
                f"{where}, row {report.empty_text_rows[0]}: empty text ({report.empty_texts} in {split}; strict)"
            )
        if report.duplicates:
            raise DataError(
                f"{where}, row {report.duplicate_rows[0]}: repeats an earlier text ({report.duplicates} do; strict)"
            )
        for other, count in report.duplicates_of.items():
            row = report.duplicate_rows_of[other][0]
            raise DataError(f"{where}, row {row}: its text also stands in {other} ({count} do; strict)")
