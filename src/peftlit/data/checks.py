"""What must hold for rows before any weight is loaded, and what is counted and reported."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
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
    """Rows of one split that are worth a look. Row numbers count from 1 in the source; the first few are listed.

    Attributes:
        rows: Number of rows.
        labels: Rows of each class, or rows that carry each label; of values the lowest, the mean and the highest.
        notes: What else is worth knowing of the labels.
        empty_texts: Number of texts that are empty or white space.
        duplicates: Rows whose text repeats an earlier row of the same split.
        duplicates_of: Number of rows whose text also stands in another split, by split.
    """

    rows: int
    labels: dict[str, float]
    notes: list[str] = field(default_factory=list)
    empty_texts: int = 0
    empty_text_rows: list[int] = field(default_factory=list)
    duplicates: int = 0
    duplicate_rows: list[int] = field(default_factory=list)
    duplicates_of: dict[str, int] = field(default_factory=dict)
    duplicate_rows_of: dict[str, list[int]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        """Return the report as plain JSON values."""
        return asdict(self)

    def count(self, row: int, text: str, seen: set[int], earlier: Mapping[str, set[int]]) -> None:
        """Note whether a row's text is empty, and whether it was seen before.

        Args:
            row: The row's number in the source.
            text: Its text; a pair joined.
            seen: The keys of the split's texts so far, completed in place. 64 bits stand for a text, as for a row in
                the manifest.
            earlier: The keys of the texts of other splits.
        """
        if not all(map(str.strip, text.split(PAIR_SEPARATOR))):
            self.empty_texts += 1
            _list(row, self.empty_text_rows)
        key = hash(text)
        if key in seen:
            self.duplicates += 1
            _list(row, self.duplicate_rows)
        seen.add(key)
        for other, theirs in earlier.items():
            if key in theirs:
                self.duplicates_of[other] = self.duplicates_of.get(other, 0) + 1
                _list(row, self.duplicate_rows_of.setdefault(other, []))

    def oddities(self) -> str:
        """Return what was found, in brackets; nothing where all is well."""
        found = [f"{self.empty_texts} empty texts"] * bool(self.empty_texts)
        found += [f"{self.duplicates} repeated texts"] * bool(self.duplicates)
        found += [f"{count} texts that also stand in {other}" for other, count in self.duplicates_of.items()]
        return f" ({', '.join(found)})" if found else ""

    def refuse(self, split: str, source: str) -> None:
        """Turn what was counted into an error.

        Raises:
            DataError: The first finding, with its row.
        """
        if self.empty_texts:
            raise DataError(
                f"{source}, row {self.empty_text_rows[0]}: empty text ({self.empty_texts} in {split}; strict)"
            )
        if self.duplicates:
            raise DataError(
                f"{source}, row {self.duplicate_rows[0]}: repeats an earlier text ({self.duplicates} do; strict)"
            )
        for other, count in self.duplicates_of.items():
            row = self.duplicate_rows_of[other][0]
            raise DataError(f"{source}, row {row}: its text also stands in {other} ({count} do; strict)")


def _list(row: int, rows: list[int]) -> None:
    if len(rows) < _LISTED:
        rows.append(row)


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
    earlier: dict[str, set[int]] = {}
    reports: dict[str, RowReport] = {}
    hashes: dict[str, list[str]] = {}
    for split, part in splits.items():
        rows, values = part["row"][:], part["label"][:]
        report = reports[split] = RowReport(rows=len(rows), labels=labels.summary(values))
        keys: set[int] = set()
        hashes[split] = []
        for row, text, value in zip(rows, joined_texts(part), values, strict=True):
            hashes[split].append(row_hash(text, labels.to_csv(value)))
            report.count(row, text, keys, earlier)
        earlier[split] = keys
        log.info("%s", f"{split}: {len(rows)} rows{report.oddities()}")
    return reports, hashes
