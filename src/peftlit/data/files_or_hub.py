"""Rows of one's own: from local files, a file for each split, or from any hub set.

Here and in the data modules annotations are not postponed: jsonargparse looks the names of inherited ones up along the
first bases alone, and this one comes before the data module.
"""

from dataclasses import dataclass
from pathlib import Path

import datasets

from peftlit.data.files import read_hub, read_rows
from peftlit.errors import ConfigError


@dataclass(kw_only=True, eq=False, repr=False)
class FilesOrHub:
    """Settings of a data module that say where its rows are: files that are named, or a hub set, one of the two.

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
        super().__post_init__()  # type: ignore[misc]  # the data module's
        if (self.train_file is None) == (self.path is None):
            raise ConfigError(
                f"data: {type(self).__name__} needs train_file (local files) or path (a hub set), one of the two"
            )

    def load(self) -> dict[str, datasets.Dataset]:
        """Return the files' rows, or the hub set's splits."""
        if self.path is not None:
            hub = read_hub(self.path, self.name, self.revision)
            self.sources = {split: f"{self.path} {split}" for split in hub}
            return hub
        named = {"train": self.train_file, "validation": self.validation_file, "test": self.test_file}
        self.sources = {split: file for split, file in named.items() if file}
        return {split: self._read_file(Path(file)) for split, file in self.sources.items()}

    def _read_file(self, file: Path) -> datasets.Dataset:
        return read_rows(file)
