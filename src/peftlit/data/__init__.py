"""LightningDataModules: one file per data set, and the base that checks, splits, tokenizes and batches."""

from peftlit.data.base import TokenDataModule
from peftlit.data.chat_files import ChatFiles
from peftlit.data.documents import DocumentDataModule
from peftlit.data.imdb import IMDB
from peftlit.data.labelled import TextDataModule
from peftlit.data.reviews import Reviews
from peftlit.data.sst2 import SST2
from peftlit.data.streamed import StreamedText
from peftlit.data.text_files import TextFiles
from peftlit.data.text_lines import TextLines
from peftlit.data.tweet_sentiment import TweetSentiment
from peftlit.data.wikitext import WikiText2

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
