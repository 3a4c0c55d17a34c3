from __future__ import annotations

import datasets
import pytest

from peftlit.data import SST2
from tests.data.helpers import labelled, refusal, write_jsonl

SETS = {"train": [0] * 440 + [1] * 560, "validation": [0, 1] * 20, "test": [-1] * 30}  # the hub's test labels


def rows(name: str) -> datasets.Dataset:
    texts = [f"{name} {i}" for i in range(len(SETS[name]))]
    return datasets.Dataset.from_dict({"idx": range(len(texts)), "sentence": texts, "label": SETS[name]})


def test_the_hubs_validation_split_is_the_test_split_and_validation_is_cut_from_train_by_class(hub):
    asked = hub(**{name: rows(name) for name in SETS})
    data = SST2(revision="v1")
    splits = data.read()
    assert asked == [("stanfordnlp/sst2", None, "v1")]
    assert {name: len(part) for name, part in splits.items()} == {"train": 980, "validation": 20, "test": 40}
    assert splits["test"]["text"][:] == [f"validation {i}" for i in range(40)]
    validation = splits["validation"]
    assert sorted(validation["label"]) == [0] * 9 + [1] * 11
    assert validation["text"][:] == [f"train {row - 1}" for row in validation["row"]]
    manifest = data.manifest()
    assert manifest["label_names"] == ["negative", "positive"]
    assert manifest["cut_from_train"]["shares"] == {"train": 0.98, "validation": 0.02}
    assert manifest["sources"] == {
        "train": "stanfordnlp/sst2 train", "validation": "stanfordnlp/sst2 train",
        "test": "stanfordnlp/sst2 validation",
    }  # fmt: skip
    assert len(SST2(text_column="sentence").read()["test"]) == 40, "the hub's own name of the column"


def test_a_wrong_label_on_the_hub_is_named_with_split_and_row(hub):
    hub(train=rows("train"), validation=rows("test"))
    assert "stanfordnlp/sst2 validation, row 1: unknown label -1" in refusal(SST2().read)


@pytest.mark.parametrize("ending", ["jsonl", "csv", "tsv", "parquet"])
def test_local_files_are_taken_as_they_are(tmp_path, ending):
    for name, count in (("train", 6), ("validation", 4), ("test", 2)):
        part, path = datasets.Dataset.from_list(labelled([0, 1] * (count // 2))), str(tmp_path / f"{name}.{ending}")
        if ending == "jsonl":
            part.to_json(path)
        elif ending == "parquet":
            part.to_parquet(path)
        else:
            part.to_csv(path, sep="\t" if ending == "tsv" else ",", index=False)
    data = SST2(data_dir=str(tmp_path))
    assert {name: part["label"][:] for name, part in data.read().items()} == {
        "train": [0, 1] * 3, "validation": [0, 1] * 2, "test": [0, 1]
    }  # fmt: skip
    assert data.manifest()["cut_from_train"] is None


def test_local_files_without_validation_have_it_cut_from_train(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", labelled(["negative", "positive"] * 50))
    splits = SST2(data_dir=str(tmp_path)).read()
    assert {name: len(part) for name, part in splits.items()} == {"train": 98, "validation": 2}


def test_a_folder_without_train_is_refused_by_the_files_name(tmp_path):
    assert f"{tmp_path / 'train.jsonl'}: no such file" in refusal(SST2(data_dir=str(tmp_path)).read)


def test_real_sst2_reads_whole(shared):
    splits = SST2(data_dir=str(shared / "data" / "sst2")).read()
    assert {name: len(part) for name, part in splits.items()} == {"train": 6116, "validation": 872, "test": 1821}
