"""Large Movie Review Dataset v1.0, two classes (Maas et al., ACL 2011)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import datasets

from peftlit.data.cleaning import CleaningStep
from peftlit.data.files import find_splits, read_hub
from peftlit.data.labelled import TextDataModule


@dataclass(kw_only=True, eq=False, repr=False)
class IMDB(TextDataModule):
    """IMDB reviews from the hub (``stanfordnlp/imdb``), or from local files.

    The hub has train, test, and unlabelled reviews, which are left out. It has no validation split, so one is cut,
    stratified, from train. Local files are taken as they are; a validation split that they lack is cut likewise.
    Some copies of the set have a column ``rating``: it gives the label away, so it is never part of the text.

    Args:
        data_dir: Folder with ``train``, ``test`` and, if there is one, ``validation`` as ``.jsonl``, ``.csv``,
            ``.tsv`` or ``.parquet``, columns ``text`` and ``label``; unset = the hub.
        revision: Branch, tag or commit of the hub set.
        label_names: The classes' names in the order of their ids.
        cleaning_steps: Steps applied to every text, in training and by ``predict``; reviews hold ``<br />`` for every
            line break.
        validation_share: Fraction of the training rows to cut for validation.
    """

    question: ClassVar[str] = "Sentiment"

    data_dir: str | None = None
    revision: str | None = None
    label_names: list[str] | None = field(default_factory=lambda: ["negative", "positive"])
    cleaning_steps: list[CleaningStep] = field(default_factory=lambda: ["tags", "whitespace"])
    validation_share: float = 0.1
    test_share: float = 0.0

    def load(self) -> dict[str, datasets.Dataset]:
        """Return local files, or the hub's labelled splits."""
        if self.data_dir is not None:
            return self.load_files(find_splits(self.data_dir))
        hub = read_hub("stanfordnlp/imdb", None, self.revision)
        self.sources = {split: f"stanfordnlp/imdb {split}" for split in ("train", "test")}
        return {split: hub[split] for split in self.sources}
