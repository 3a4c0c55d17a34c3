"""Large Movie Review Dataset v1.0, two classes (Maas et al., ACL 2011)."""

from dataclasses import dataclass, field
from typing import ClassVar

from peftlit.data.cleaning import CleaningStep
from peftlit.data.folder_or_hub import FolderOrHub
from peftlit.data.labelled import TextDataModule


@dataclass(kw_only=True, eq=False, repr=False)
class IMDB(FolderOrHub, TextDataModule):
    """IMDB reviews from the hub (``stanfordnlp/imdb``), or from local files with the columns ``text`` and ``label``.

    The hub has train, test, and unlabelled reviews, which are left out. A validation split is cut, stratified, from
    train; local files may bring one. Some copies of the set have a column ``rating``: it gives the label away, so it
    is never part of the text.

    Args:
        label_names: The classes' names in the order of their ids.
        cleaning_steps: Steps applied to every text, in training and by ``predict``; reviews hold ``<br />`` for every
            line break.
    """

    question: ClassVar[str] = "Sentiment"
    hub_path: ClassVar[str] = "stanfordnlp/imdb"
    hub_splits: ClassVar[dict[str, str]] = {"train": "train", "test": "test"}

    label_names: list[str] | None = field(default_factory=lambda: ["negative", "positive"])
    cleaning_steps: list[CleaningStep] = field(default_factory=lambda: ["tags", "whitespace"])
