"""Rows of a set that has a home on the hub: from there, or from a folder of local copies.

Annotations are not postponed here and in the data modules: see :mod:`peftlit.data.files_or_hub`.
"""

from dataclasses import dataclass
from typing import ClassVar

import datasets

from peftlit.data.files import find_splits, read_hub, read_rows


@dataclass(kw_only=True, eq=False, repr=False)
class FolderOrHub:
    """Settings of a data module that say where its rows are: in a folder, or on the hub.

    Args:
        data_dir: Folder with ``train``, ``validation`` and ``test`` as ``.jsonl``, ``.csv``, ``.tsv`` or
            ``.parquet``; unset = the hub.
        revision: Branch, tag or commit of the hub set.
    """

    hub_path: ClassVar[str]
    hub_name: ClassVar[str | None] = None
    hub_splits: ClassVar[dict[str, str]] = {"train": "train", "validation": "validation", "test": "test"}
    """The hub's name of each split."""

    data_dir: str | None = None
    revision: str | None = None
    test_share: float = 0.0

    def load(self) -> dict[str, datasets.Dataset]:
        """Return the rows of the folder's files, or the hub's splits."""
        if self.data_dir is not None:
            self.sources = find_splits(self.data_dir)
            return {split: read_rows(file) for split, file in self.sources.items()}
        hub = read_hub(self.hub_path, self.hub_name, self.revision)
        name = self.hub_path if self.hub_name is None else f"{self.hub_path} {self.hub_name}"
        self.sources = {split: f"{name} {own}" for split, own in self.hub_splits.items()}
        return {split: hub[own] for split, own in self.hub_splits.items()}
