"""Running text from files of one's own, or from any hub set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import datasets

from peftlit.data.documents import DocumentDataModule
from peftlit.data.files import read_hub, read_rows, require_file
from peftlit.data.lines import iterate_lines
from peftlit.data.table import make_rows
from peftlit.errors import ConfigError

Document = Literal["line", "paragraph", "file"]


@dataclass(kw_only=True, eq=False, repr=False)
class TextLines(DocumentDataModule):
    """Documents from plain text, CSV, TSV, JSONL or Parquet files, Arrow folders, or a hub set.

    Args:
        train_file: Training documents. Give this or ``path``.
        validation_file: Validation documents; unset = cut from the training documents by ``validation_share``.
        test_file: Test documents; unset = cut from the training documents by ``test_share``.
        path: Id of a hub set with the splits ``train`` and, if it has them, ``validation`` and ``test``.
        name: Configuration of the hub set, where it has several.
        revision: Branch, tag or commit of the hub set.
        document: What is one document in a ``.txt`` file: a ``line`` that is not blank, a ``paragraph`` (lines up to
            a blank one), or the whole ``file``. In other files a row is one.
    """

    train_file: str | None = None
    validation_file: str | None = None
    test_file: str | None = None
    path: str | None = None
    name: str | None = None
    revision: str | None = None
    document: Document = "line"

    def __post_init__(self) -> None:
        """Check that exactly one source is named."""
        super().__post_init__()
        if (self.train_file is None) == (self.path is None):
            raise ConfigError("data: TextLines needs train_file (local files) or path (a hub set), one of the two")

    def load(self) -> dict[str, datasets.Dataset]:
        """Return the files' documents, or the hub set's splits."""
        if self.path is not None:
            hub = read_hub(self.path, self.name, self.revision)
            self.sources = {split: f"{self.path} {split}" for split in hub}
            return {split: hub[split] for split in ("train", "validation", "test") if split in hub}
        named = {"train": self.train_file, "validation": self.validation_file, "test": self.test_file}
        self.sources = {split: file for split, file in named.items() if file}
        return {split: self._read(Path(file)) for split, file in self.sources.items()}

    def _read(self, file: Path) -> datasets.Dataset:
        if file.suffix.lower() != ".txt":
            return read_rows(file)
        require_file(file)
        return make_rows({self.text_column: _documents(iterate_lines(file), self.document)})


def _documents(lines: Iterable[str], document: Document) -> Iterator[str]:
    """Put lines together into documents."""
    if document == "file":
        yield "\n".join(lines)
        return
    open_lines: list[str] = []
    for line in lines:
        if document == "line" or not line.strip():
            if document == "line":
                open_lines = [line]
            if any(map(str.strip, open_lines)):
                yield "\n".join(open_lines)
            open_lines = []
        else:
            open_lines.append(line)
    if open_lines:
        yield "\n".join(open_lines)
