"""Sentiment of tweets, three classes (SemEval-2017 Task 4, subtask A: Rosenthal et al., SemEval 2017).

As part of TweetEval: Barbieri et al., Findings of EMNLP 2020.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from peftlit.data.folder_or_hub import FolderOrHub
from peftlit.data.labelled import TextDataModule


@dataclass(kw_only=True, eq=False, repr=False)
class TweetSentiment(FolderOrHub, TextDataModule):
    r"""TweetEval's sentiment task from the hub (``cardiffnlp/tweet_eval``, ``sentiment``), or from local files.

    The canonical three splits, columns ``text`` and ``label``. Texts are left as they are there: users are ``@user``,
    and some hold escapes such as ``\u2019`` or ``&gt;``; ``cleaning_steps: [html]`` would turn the latter into
    characters.

    Args:
        label_names: The classes' names in the order of their ids.
    """

    question: ClassVar[str] = "Sentiment"
    hub_path: ClassVar[str] = "cardiffnlp/tweet_eval"
    hub_name: ClassVar[str | None] = "sentiment"

    label_names: list[str] | None = field(default_factory=lambda: ["negative", "neutral", "positive"])
