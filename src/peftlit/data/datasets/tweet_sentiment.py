"""Sentiment of tweets, three classes (SemEval-2017 Task 4, subtask A: Rosenthal et al., SemEval 2017).

As part of TweetEval: Barbieri et al., Findings of EMNLP 2020.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import datasets

from peftlit.data.files import find_splits, read_hub
from peftlit.data.labelled import TextDataModule


@dataclass(kw_only=True, eq=False, repr=False)
class TweetSentiment(TextDataModule):
    r"""TweetEval's sentiment task from the hub (``cardiffnlp/tweet_eval``, ``sentiment``), or from local files.

    The canonical three splits. Texts are left as they are there: users are ``@user``, and some hold escapes such
    as ``\u2019`` or ``&gt;``; ``cleaning_steps: [html]`` would turn the latter into characters.

    Args:
        data_dir: Folder with ``train``, ``validation`` and ``test`` as ``.jsonl``, ``.csv``, ``.tsv`` or
            ``.parquet``, columns ``text`` and ``label``; unset = the hub.
        revision: Branch, tag or commit of the hub set.
        label_names: The classes' names in the order of their ids.
        validation_share: Fraction of local training rows to cut for validation where there is no such file.
    """

    question: ClassVar[str] = "Sentiment"

    data_dir: str | None = None
    revision: str | None = None
    label_names: list[str] | None = field(default_factory=lambda: ["negative", "neutral", "positive"])
    validation_share: float = 0.1
    test_share: float = 0.0

    def load(self) -> dict[str, datasets.Dataset]:
        """Return local files, or the hub's splits."""
        if self.data_dir is not None:
            return self.load_files(find_splits(self.data_dir))
        hub = read_hub("cardiffnlp/tweet_eval", "sentiment", self.revision)
        self.sources = {split: f"cardiffnlp/tweet_eval sentiment {split}" for split in hub}
        return hub
