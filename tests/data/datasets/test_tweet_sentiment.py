from __future__ import annotations

import datasets

from peftlit.data import TweetSentiment
from tests.data.helpers import labelled, write_jsonl


def test_the_hubs_three_splits_are_taken_as_they_are(monkeypatch):
    asked = []
    names = datasets.ClassLabel(names=["negative", "neutral", "positive"])
    features = datasets.Features({"text": datasets.Value("string"), "label": names})
    odd = "@user  said \\u2019ok&gt; "

    def load_dataset(path, name, **settings):
        asked.append((path, name, settings["revision"]))
        return datasets.DatasetDict(
            {
                split: datasets.Dataset.from_dict(
                    {"text": [f"{odd}{split} {i}" for i in range(count)], "label": [i % 3 for i in range(count)]},
                    features=features,
                )
                for split, count in (("train", 30), ("test", 12), ("validation", 6))
            }
        )

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    data = TweetSentiment()
    splits = data.read()
    assert asked == [("cardiffnlp/tweet_eval", "sentiment", None)]
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 30, "validation": 6, "test": 12}
    assert splits["test"]["text"][3] == f"{odd}test 3"
    manifest = data.manifest()
    assert manifest["label_names"] == ["negative", "neutral", "positive"]
    assert manifest["cut_from_train"] is None
    assert manifest["cleaning"] == {}
    assert manifest["sources"]["test"] == "cardiffnlp/tweet_eval sentiment test"


def test_local_files_may_name_the_labels(tmp_path):
    for split in ("train", "validation", "test"):
        write_jsonl(tmp_path / f"{split}.jsonl", labelled(["positive", "negative", "neutral"]))
    splits = TweetSentiment(data_dir=str(tmp_path)).read()
    assert [rows["label"][:] for rows in splits.values()] == [[2, 0, 1]] * 3


def test_real_tweets_read_whole(shared):
    data = TweetSentiment(data_dir=str(shared / "data" / "tweet_sentiment"))
    assert {name: len(rows) for name, rows in data.read().items()} == {
        "train": 45576, "validation": 2000, "test": 12284
    }  # fmt: skip
    assert data.class_counts == [7093, 20648, 17835]
