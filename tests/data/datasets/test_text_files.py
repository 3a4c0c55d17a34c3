from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from peftlit.data import ChatFiles, TextFiles, TextLines
from peftlit.errors import ConfigError
from tests.data.helpers import labelled, refusal, text_files, write_jsonl


@pytest.mark.parametrize("kind", [TextFiles, TextLines, ChatFiles])
def test_files_or_a_hub_set_one_of_the_two(kind):
    for given in ({}, {"train_file": "a.csv", "path": "b/c"}):
        assert refusal(lambda given=given: kind(**given), ConfigError) == (
            f"data: {kind.__name__} needs train_file (local files) or path (a hub set), one of the two"
        )


def test_columns_are_mapped_by_name(tmp_path):
    rows = [{"body": "a", "stars": 1, "id": 7}, {"body": "b", "stars": 5, "id": 8}]
    data = text_files(tmp_path, rows, text_column="body", label_column="stars")
    assert data.read()["train"][:] == {"row": [1, 2], "text": ["a", "b"], "label": [0, 1]}
    assert data.label_names == ["1", "5"]


def test_splits_are_those_of_the_files_of_whatever_kinds(tmp_path):
    files = {"train": write_jsonl(tmp_path / "train.jsonl", labelled(["neg", "pos", "neg", "pos"]))}
    files |= {"validation": str(tmp_path / "validation"), "test": str(tmp_path / "test.csv")}
    Path(files["test"]).write_text("label,text\npos,fine\n", encoding="utf-8")
    datasets.Dataset.from_list(labelled(["pos"])).save_to_disk(files["validation"])
    data = TextFiles(**{f"{split}_file": file for split, file in files.items()})
    labels = {split: rows["label"][:] for split, rows in data.read().items()}
    assert labels == {"train": [0, 1, 0, 1], "validation": [1], "test": [1]}
    assert (data.manifest()["cut_from_train"], data.manifest()["sources"]) == (None, files)


def test_labels_may_be_names_in_one_file_and_ids_in_another(tmp_path):
    data = text_files(tmp_path, labelled(["neg", "pos"]), labelled([1, 0]), label_names=["neg", "pos"])
    assert data.read()["test"]["label"][:] == [1, 0]


def test_one_class_is_refused(tmp_path):
    message = refusal(text_files(tmp_path, labelled(["pos"] * 3)).read)
    assert "train.jsonl: the training rows hold one class only (pos)" in message


def test_a_hub_set_gives_its_splits_and_what_is_missing_is_cut(hub):
    sets = {"train": labelled([0, 1] * 50), "test": labelled([0, 1]), "unsupervised": labelled([-1, -1])}
    asked = hub(**{split: datasets.Dataset.from_list(rows) for split, rows in sets.items()})
    data = TextFiles(path="some/set", name="plain", revision="v1")
    assert {name: len(rows) for name, rows in data.read().items()} == {"train": 90, "validation": 10, "test": 2}
    assert asked == [("some/set", "plain", "v1")]
    sources = data.manifest()["sources"]
    assert [sources[split] for split in data.read()] == ["some/set train", "some/set train", "some/set test"]
