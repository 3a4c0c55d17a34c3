"""Stanford Sentiment Treebank, two classes (Socher et al., EMNLP 2013; GLUE: Wang et al., ICLR 2019)."""

from dataclasses import dataclass, field
from typing import ClassVar

import datasets

from peftlit.data.folder_or_hub import FolderOrHub
from peftlit.data.labelled import TextDataModule


@dataclass(kw_only=True, eq=False, repr=False)
class SST2(FolderOrHub, TextDataModule):
    """SST-2 from the hub (``stanfordnlp/sst2``), or from local files with the columns ``text`` and ``label``.

    The hub's test labels are all -1, so its validation split becomes the test split and validation is cut,
    stratified, from train. Local files are taken as they are.

    Args:
        label_names: The classes' names in the order of their ids.
        validation_share: Fraction of the training rows to cut for validation where there is no such file.
    """

    question: ClassVar[str] = "Sentiment"
    hub_path: ClassVar[str] = "stanfordnlp/sst2"
    hub_splits: ClassVar[dict[str, str]] = {"train": "train", "test": "validation"}

    label_names: list[str] | None = field(default_factory=lambda: ["negative", "positive"])
    validation_share: float = 0.02

    def load(self) -> dict[str, datasets.Dataset]:
        """Return local files, or the hub's splits by the policy above."""
        splits = super().load()
        if self.data_dir is not None or self.text_column == "sentence":
            return splits
        return {split: rows.rename_column("sentence", self.text_column) for split, rows in splits.items()}
