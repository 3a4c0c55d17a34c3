"""What must hold for rows before any weight is loaded, and what is counted and reported."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

import datasets

from peftlit.data.labels import Labels
from peftlit.data.table import column_values
from peftlit.errors import DataError

log = logging.getLogger(__name__)

PAIR_SEPARATOR = "\x1e"
"""Stands between the two texts of a pair where they are compared as one."""

_LISTED = 20
"""At most so many row numbers are listed in a report."""


def check_columns(columns: Sequence[str], wanted: Sequence[str], source: str) -> None:
    """Refuse rows that lack a column.

    Raises:
        DataError: Naming the column, the nearest one, and all there are.
    """
    for name in wanted:
        if name not in columns:
            near = difflib.get_close_matches(name, columns, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise DataError(f"{source}: no column {name!r}; {hint}its columns are {', '.join(columns)}")


def checked_texts(rows: datasets.Dataset, column: str, source: str) -> Iterator[str]:
    """Yield a column's texts; refuse rows without one, or with something else in its place."""
    for row, text in enumerate(column_values(rows, column, source), 1):
        check_text(text, column, source, row)
        yield text


def check_text(text: object, column: str, source: str, row: int) -> None:
    """Refuse a value that is no text, or one that no file in UTF-8 can hold: JSON can spell half a surrogate pair.

    Raises:
        DataError: Naming the row.
    """
    if not isinstance(text, str):
        raise DataError(f"{source}, row {row}: {column} is {text!r}, needs a text")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"{source}, row {row}: {column} holds half of a surrogate pair, which is no UTF-8"
            ) from error


def row_hash(text: str, label: str) -> str:
    """Name a row by its content: the first 64 bits of SHA-256, in hex; the texts of a pair are joined."""
    return sha256(f"{label}\x1f{text}".encode()).hexdigest()[:16]


@dataclass
class RowReport:
    """Rows of one split that are worth a look; row numbers count from 1 in the source.

    Attributes:
        rows: Number of rows.
        labels: Rows of each class, or rows that carry each label; of values the lowest, the mean and the highest.
        notes: What else is worth knowing of the labels.
        empty: Rows with a text that is empty or white space.
        repeated: Rows whose text repeats an earlier row of the same split.
        shared: Rows whose text also stands in another split, by split.
    """

    rows: int
    labels: dict[str, float]
    notes: list[str] = field(default_factory=list)
    empty: list[int] = field(default_factory=list)
    repeated: list[int] = field(default_factory=list)
    shared: dict[str, list[int]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        """Return the report as JSON values: how many rows of each kind there are, and the numbers of the first."""
        return {
            "rows": self.rows,
            "labels": self.labels,
            "notes": self.notes,
            "empty_texts": len(self.empty),
            "empty_text_rows": self.empty[:_LISTED],
            "duplicates": len(self.repeated),
            "duplicate_rows": self.repeated[:_LISTED],
            "duplicates_of": {split: len(rows) for split, rows in self.shared.items()},
            "duplicate_rows_of": {split: rows[:_LISTED] for split, rows in self.shared.items()},
        }

    def oddities(self) -> str:
        """Return what was found, in brackets; nothing where all is well."""
        found = [f"{len(self.empty)} empty texts"] * bool(self.empty)
        found += [f"{len(self.repeated)} repeated texts"] * bool(self.repeated)
        found += [f"{len(rows)} texts that also stand in {other}" for other, rows in self.shared.items()]
        return f" ({', '.join(found)})" if found else ""

    def refuse(self, split: str, source: str) -> None:
        """Raise a DataError for the first finding, with its row."""
        found = [("empty text", self.empty, f"in {split}"), ("repeats an earlier text", self.repeated, "do")]
        found += [(f"its text also stands in {other}", rows, "do") for other, rows in self.shared.items()]
        for what, rows, which in found:
            if rows:
                raise DataError(f"{source}, row {rows[0]}: {what} ({len(rows)} {which}; strict)")


def joined_texts(rows: datasets.Dataset) -> Iterator[str]:
    """Yield one text per row; the two of a pair joined."""
    columns = [name for name in ("text", "text_pair") if name in rows.column_names]
    yield from map(PAIR_SEPARATOR.join, zip(*(column_values(rows, name, "") for name in columns), strict=True))


def describe_splits(
    splits: Mapping[str, datasets.Dataset], labels: Labels
) -> tuple[dict[str, RowReport], dict[str, list[str]]]:
    """Count labels, empty texts and duplicates, and hash every row, each read once. Logs a line for each split.

    Args:
        splits: The checked rows of each split; a split is compared with those before it.
        labels: What their labels are.

    Returns:
        The report of each split, and its rows' hashes in order.
    """
    reports: dict[str, RowReport] = {}
    hashes: dict[str, list[str]] = {}
    earlier: dict[str, set[int]] = {}  # 64 bits stand for a text, as they do in a row's hash
    for split, part in splits.items():
        rows, values = part["row"][:], part["label"][:]
        report = reports[split] = RowReport(rows=len(rows), labels=labels.summary(values))
        hashes[split] = []
        seen: set[int] = set()
        for row, text, value in zip(rows, joined_texts(part), values, strict=True):
            hashes[split].append(row_hash(text, labels.to_csv(value)))
            if not all(map(str.strip, text.split(PAIR_SEPARATOR))):
                report.empty.append(row)
            key = hash(text)
            if key in seen:
                report.repeated.append(row)
            seen.add(key)
            for other, theirs in earlier.items():
                if key in theirs:
                    report.shared.setdefault(other, []).append(row)
        earlier[split] = seen
        log.info("%s", f"{split}: {len(rows)} rows{report.oddities()}")
    return reports, hashes
