"""LightningDataModules: one file per data set, and the base that checks, splits, tokenizes and batches."""

from peftlit.data.base import TextDataModule
from peftlit.data.reviews import Reviews
from peftlit.data.sst2 import SST2
from peftlit.data.text_files import TextFiles

__all__ = ["SST2", "Reviews", "TextDataModule", "TextFiles"]
