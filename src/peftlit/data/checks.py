"""What must hold for rows before any weight is loaded, and what is counted and reported."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import datasets

from peftlit.errors import DataError

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
        duplicates_of: Rows whose text also stands in another split, by split.
    """

    rows: int
    labels: dict[str, int]
    empty_texts: int = 0
    empty_text_rows: list[int] = field(default_factory=list)
    duplicates: int = 0
    duplicate_rows: list[int] = field(default_factory=list)
    duplicates_of: dict[str, int] = field(default_factory=dict)

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
    for name in wanted:
        if name not in rows.column_names:
            near = difflib.get_close_matches(name, rows.column_names, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise DataError(f"{source}: no column {name!r}; {hint}its columns are {', '.join(rows.column_names)}")


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
    distinct = {str(v) for v in values if v is not None and str(v) != ""}
    return sorted(distinct, key=lambda v: (0, int(v), v) if v.lstrip("-").isdigit() else (1, 0, v))


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
    known: dict[str, int] = {str(i): i for i in range(len(names))} | {name: i for i, name in enumerate(names)}
    ids = []
    for row, value in enumerate(values, 1):
        text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
        if value is None or text == "":
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
    empty = [row for row, text in zip(rows, texts, strict=True) if not text.strip()]
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
            raise DataError(f"{where}: {count} texts of {split} also stand in {other} (strict)")
