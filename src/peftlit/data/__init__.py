"""LightningDataModules: one file per data set, and the base that checks, splits, tokenizes and batches."""

from peftlit.data.base import TokenDataModule
from peftlit.data.datasets.chat_files import ChatFiles
from peftlit.data.datasets.imdb import IMDB
from peftlit.data.datasets.reviews import Reviews
from peftlit.data.datasets.sst2 import SST2
from peftlit.data.datasets.streamed_text import StreamedText
from peftlit.data.datasets.text_files import TextFiles
from peftlit.data.datasets.text_lines import TextLines
from peftlit.data.datasets.tweet_sentiment import TweetSentiment
from peftlit.data.datasets.wikitext import WikiText2
from peftlit.data.documents import DocumentDataModule
from peftlit.data.labelled import TextDataModule

__all__ = [
    "IMDB",
    "SST2",
    "ChatFiles",
    "DocumentDataModule",
    "Reviews",
    "StreamedText",
    "TextDataModule",
    "TextFiles",
    "TextLines",
    "TokenDataModule",
    "TweetSentiment",
    "WikiText2",
]
