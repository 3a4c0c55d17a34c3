"""Labelled texts from files of one's own, or from any hub set, by a column map."""

from dataclasses import dataclass

from peftlit.data.files_or_hub import FilesOrHub
from peftlit.data.labelled import TextDataModule


@dataclass(kw_only=True, eq=False, repr=False)
class TextFiles(FilesOrHub, TextDataModule):
    """Texts and labels from CSV, TSV, JSONL or Parquet files, Arrow folders, or a hub set."""
