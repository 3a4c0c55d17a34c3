from __future__ import annotations

import datasets

from peftlit.data import IMDB
from tests.data.helpers import labelled, write_jsonl


def rows(name: str, labels: list[int]) -> datasets.Dataset:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    texts = [f"{name} {i}<br /><br />the  end" for i in range(len(labels))]
    return datasets.Dataset.from_dict({"text": texts, "label": labels}, features=features)


def test_validation_is_cut_from_the_hubs_train_and_unlabelled_reviews_are_left_out(hub):
    sets = {"train": [0] * 100 + [1] * 100, "test": [0, 1] * 50, "unsupervised": [-1] * 30}
    asked = hub(**{name: rows(name, labels) for name, labels in sets.items()})
    data = IMDB(revision="v1")
    splits = data.read()
    assert asked == [("stanfordnlp/imdb", None, "v1")]
    assert {name: len(part) for name, part in splits.items()} == {"train": 180, "validation": 20, "test": 100}
    assert sorted(splits["validation"]["label"]) == [0] * 10 + [1] * 10
    assert not any("unsupervised" in text for part in splits.values() for text in part["text"])
    manifest = data.manifest()
    assert manifest["label_names"] == ["negative", "positive"]
    assert manifest["cut_from_train"]["shares"] == {"train": 0.9, "validation": 0.1}
    assert manifest["sources"]["validation"] == manifest["sources"]["train"] == "stanfordnlp/imdb train"
    assert splits["test"]["text"][0] == "test 0 the end"
    assert manifest["cleaning"] == {"tags": 300, "whitespace": 300}
    assert IMDB(cleaning_steps=[]).read()["test"]["text"][0] == "test 0<br /><br />the  end"


def test_local_splits_are_taken_as_they_are_and_ratings_are_no_text(tmp_path):
    for name, count in (("train", 6), ("validation", 4), ("test", 2)):
        write_jsonl(tmp_path / f"{name}.jsonl", [{**row, "rating": 9} for row in labelled([0, 1] * (count // 2))])
    data = IMDB(data_dir=str(tmp_path))
    assert {name: len(part) for name, part in data.read().items()} == {"train": 6, "validation": 4, "test": 2}
    assert all("9" not in text for part in data.read().values() for text in part["text"])
    assert data.manifest()["cut_from_train"] is None


def test_real_imdb_reads_whole(shared):
    data = IMDB(data_dir=str(shared / "data" / "imdb"))
    assert {name: len(part) for name, part in data.read().items()} == {"train": 2000, "validation": 1000, "test": 2000}
    assert data.manifest()["cleaning"]["tags"] > 2000
