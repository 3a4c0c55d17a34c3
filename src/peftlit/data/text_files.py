"""Labelled texts from files of one's own, or from any hub set, by a column map."""

from __future__ import annotations

from dataclasses import dataclass

import datasets

from peftlit.data.files import read_hub
from peftlit.data.labelled import TextDataModule
from peftlit.errors import ConfigError


@dataclass(kw_only=True, eq=False, repr=False)
class TextFiles(TextDataModule):
    """Texts and labels from CSV, TSV, JSONL or Parquet files, Arrow folders, or a hub set.

    Args:
        train_file: Training rows. Give this or ``path``.
        validation_file: Validation rows; unset = cut from the training rows by ``validation_share``.
        test_file: Test rows; unset = cut from the training rows by ``test_share``.
        path: Id of a hub set with the splits ``train`` and, if it has them, ``validation`` and ``test``.
        name: Configuration of the hub set, where it has several.
        revision: Branch, tag or commit of the hub set.
    """

    train_file: str | None = None
    validation_file: str | None = None
    test_file: str | None = None
    path: str | None = None
    name: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        """Check that exactly one source is named."""
        super().__post_init__()
        if (self.train_file is None) == (self.path is None):
            raise ConfigError("data: TextFiles needs train_file (local files) or path (a hub set), one of the two")

    def load(self) -> dict[str, datasets.Dataset]:
        """Return the files' rows, or the hub set's splits."""
        if self.path is not None:
            hub = read_hub(self.path, self.name, self.revision)
            self.sources = {split: f"{self.path} {split}" for split in hub}
            return {split: hub[split] for split in ("train", "validation", "test") if split in hub}
        files = {"train": self.train_file, "validation": self.validation_file, "test": self.test_file}
        return self.load_files({split: file for split, file in files.items() if file})
