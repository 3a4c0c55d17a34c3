"""Rows without labels, for what has to deal with both kinds."""

from __future__ import annotations

from collections.abc import Sequence

from peftlit.data.labels import Labels


class Unlabelled(Labels):
    """No labels: what is learned of a row is its text."""

    problem_type = "language_modeling"

    def __init__(self) -> None:
        super().__init__([], "")

    def parse(self, value: object, source: str, row: int) -> int:
        """Return the same of all rows, which makes one stratum of them."""
        return 0

    def check(self, labels: Sequence[int], source: str) -> list[str]:
        """Find nothing."""
        return []

    def strata(self, labels: Sequence[int], smallest_share: float) -> list[int]:
        """Return one stratum."""
        return list(labels)

    def counts(self, labels: Sequence[int]) -> list[int] | None:
        """Count nothing."""
        return None

    def to_csv(self, label: int) -> str:
        """Return nothing."""
        return ""
