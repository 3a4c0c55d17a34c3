"""Reviews in one file: declared cleaning, and a stratified 72 / 8 / 20 split."""

from __future__ import annotations

from dataclasses import dataclass, field

import datasets

from peftlit.data.cleaning import CleaningStep
from peftlit.data.labelled import TextDataModule


@dataclass(kw_only=True, eq=False, repr=False)
class Reviews(TextDataModule):
    """Reviews from one CSV, TSV, JSONL or Parquet file.

    Args:
        file: The file with all rows.
        cleaning_steps: Steps applied to every text, in training and by ``predict``.
        validation_share: Fraction of the rows for validation.
        test_share: Fraction of the rows for test.
    """

    file: str
    cleaning_steps: list[CleaningStep] = field(default_factory=lambda: ["html", "tags", "whitespace"])
    validation_share: float = 0.08
    test_share: float = 0.2

    def load(self) -> dict[str, datasets.Dataset]:
        """Return all rows as one split; the base cuts the others from it."""
        return self.load_files({"train": self.file})
