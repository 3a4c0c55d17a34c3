"""Reviews in one file: declared cleaning, and a stratified 72 / 8 / 20 split."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import datasets

from peftlit.data.base import TextDataModule
from peftlit.data.files import read_rows

CleaningStep = Literal["html", "tags", "whitespace"]

_STEPS: dict[str, Callable[[str], str]] = {
    "html": html.unescape,
    "tags": lambda text: re.sub(r"<[A-Za-z/][^<>]*>", " ", text),
    "whitespace": lambda text: " ".join(text.split()),
}


@dataclass(kw_only=True, eq=False, repr=False)
class Reviews(TextDataModule):
    """Reviews from one CSV, TSV, JSONL or Parquet file.

    Args:
        file: The file with all rows.
        cleaning_steps: Steps applied to every text, in this order: ``html`` (``&amp;`` to ``&``), ``tags``
            (drop ``<br />`` and the like), ``whitespace`` (runs become one space). How many texts each step
            changed is written to the split manifest.
        validation_share: Fraction of the rows for validation.
        test_share: Fraction of the rows for test.
    """

    file: str
    cleaning_steps: list[CleaningStep] = field(default_factory=lambda: ["html", "tags", "whitespace"])
    validation_share: float = 0.08
    test_share: float = 0.2

    def __post_init__(self) -> None:
        """Check ranges; nothing is read yet."""
        super().__post_init__()
        self._changed: Counter[str] = Counter()

    def load(self) -> dict[str, datasets.Dataset]:
        """Return all rows as one split; the base cuts the others from it."""
        self.sources = {"train": self.file}
        return {"train": read_rows(self.file)}

    def clean(self, text: str) -> str:
        """Apply the cleaning steps and count what they changed.

        Args:
            text: The review as read.
        """
        for step in self.cleaning_steps:
            cleaned = _STEPS[step](text)
            self._changed[step] += cleaned != text
            text = cleaned
        return text

    def cleaning(self) -> dict[str, int]:
        """Say how many texts each cleaning step changed."""
        return {step: self._changed[step] for step in self.cleaning_steps}
