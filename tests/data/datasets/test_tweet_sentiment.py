from __future__ import annotations

import datasets

from peftlit.data import TweetSentiment
from tests.data.helpers import labelled, write_jsonl

NAMES = ["negative", "neutral", "positive"]


def test_the_hubs_three_splits_are_taken_as_they_are(hub):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=NAMES)})
    odd = "@user  said \\u2019ok&gt; "

    def rows(name: str, count: int) -> datasets.Dataset:
        columns = {"text": [f"{odd}{name} {i}" for i in range(count)], "label": [i % 3 for i in range(count)]}
        return datasets.Dataset.from_dict(columns, features=features)

    sizes = {"train": 30, "validation": 6, "test": 12}
    asked = hub(**{name: rows(name, count) for name, count in sizes.items()})
    data = TweetSentiment()
    assert {name: len(part) for name, part in data.read().items()} == sizes
    assert asked == [("cardiffnlp/tweet_eval", "sentiment", None)]
    assert data.read()["test"]["text"][3] == f"{odd}test 3"
    manifest = data.manifest()
    assert (manifest["label_names"], manifest["cut_from_train"], manifest["cleaning"]) == (NAMES, None, {})
    assert manifest["sources"]["test"] == "cardiffnlp/tweet_eval sentiment test"


def test_local_files_may_name_the_labels(tmp_path):
    for split in ("train", "validation", "test"):
        write_jsonl(tmp_path / f"{split}.jsonl", labelled(["positive", "negative", "neutral"]))
    splits = TweetSentiment(data_dir=str(tmp_path)).read()
    assert [part["label"][:] for part in splits.values()] == [[2, 0, 1]] * 3


def test_real_tweets_read_whole(shared):
    data = TweetSentiment(data_dir=str(shared / "data" / "tweet_sentiment"))
    assert {name: len(part) for name, part in data.read().items()} == {
        "train": 45576, "validation": 2000, "test": 12284
    }  # fmt: skip
    assert data.class_counts == [7093, 20648, 17835]
