"""Running text from files of one's own, or from any hub set."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

import datasets

from peftlit.data.documents import DocumentDataModule
from peftlit.data.files import read_rows, require_file
from peftlit.data.files_or_hub import FilesOrHub
from peftlit.data.lines import iterate_lines
from peftlit.data.table import make_rows

Document = Literal["line", "paragraph", "file"]


@dataclass(kw_only=True, eq=False, repr=False)
class TextLines(FilesOrHub, DocumentDataModule):
    """Documents from plain text, CSV, TSV, JSONL or Parquet files, Arrow folders, or a hub set.

    Args:
        document: What is one document in a ``.txt`` file: a ``line`` that is not blank, a ``paragraph`` (lines up to
            a blank one), or the whole ``file``. In other files a row is one.
    """

    document: Document = "line"

    def _read_file(self, file: Path) -> datasets.Dataset:
        if file.suffix.lower() != ".txt":
            return read_rows(file)
        require_file(file)
        return make_rows({self.text_column: _documents(iterate_lines(file), self.document)})


def _documents(lines: Iterable[str], document: Document) -> Iterator[str]:
    """Put lines together into documents."""
    if document == "file":
        yield "\n".join(lines)
    elif document == "line":
        yield from filter(str.strip, lines)
    else:
        for is_text, paragraph in groupby(lines, lambda line: bool(line.strip())):
            if is_text:
                yield "\n".join(paragraph)
