"""Stanford Sentiment Treebank, two classes (Socher et al., EMNLP 2013; GLUE: Wang et al., ICLR 2019)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import datasets

from peftlit.data.files import find_splits, read_hub
from peftlit.data.labelled import TextDataModule


@dataclass(kw_only=True, eq=False, repr=False)
class SST2(TextDataModule):
    """SST-2 from the hub (``stanfordnlp/sst2``), or from local files.

    The hub's test labels are all -1, so its validation split becomes the test split and validation is cut,
    stratified, from train. Local files are taken as they are.

    Args:
        data_dir: Folder with ``train``, ``validation`` and ``test`` as ``.jsonl``, ``.csv``, ``.tsv`` or
            ``.parquet``, columns ``text`` and ``label``; unset = the hub.
        revision: Branch, tag or commit of the hub set.
        label_names: The classes' names in the order of their ids.
        validation_share: Fraction of the hub's training rows to cut for validation.
    """

    question: ClassVar[str] = "Sentiment"

    data_dir: str | None = None
    revision: str | None = None
    label_names: list[str] | None = field(default_factory=lambda: ["negative", "positive"])
    validation_share: float = 0.02
    test_share: float = 0.0

    def load(self) -> dict[str, datasets.Dataset]:
        """Return local files, or the hub's splits by the policy above."""
        if self.data_dir is not None:
            return self.load_files(find_splits(self.data_dir))
        hub = read_hub("stanfordnlp/sst2", None, self.revision)
        self.sources = {"train": "stanfordnlp/sst2 train", "test": "stanfordnlp/sst2 validation"}
        return {
            split: rows if self.text_column == "sentence" else rows.rename_column("sentence", self.text_column)
            for split, rows in (("train", hub["train"]), ("test", hub["validation"]))
        }
