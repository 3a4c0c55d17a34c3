"""Rows without labels."""

from __future__ import annotations

from peftlit.data.labels import Labels


class Unlabelled(Labels):
    """No labels: what is learned of a row is its text."""

    problem_type = "language_modeling"

    def __init__(self) -> None:
        super().__init__([], "")

    def parse(self, value: object, source: str, row: int) -> int:
        """Return 0 for every row, so that all rows are one stratum."""
        return 0

    def to_csv(self, label: int) -> str:
        """Return an empty text."""
        return ""
