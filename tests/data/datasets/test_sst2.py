from __future__ import annotations

import datasets
import pytest

from peftlit.data import SST2
from tests.data.helpers import labelled, refusal, write_jsonl


@pytest.fixture
def hub(monkeypatch) -> datasets.DatasetDict:
    """Stand in for the hub, with its columns, and -1 for every test label."""

    def rows(name: str, labels: list[int]) -> datasets.Dataset:
        texts = [f"{name} {i}" for i in range(len(labels))]
        return datasets.Dataset.from_dict({"idx": range(len(labels)), "sentence": texts, "label": labels})

    sets = {"train": [0] * 440 + [1] * 560, "validation": [0, 1] * 20, "test": [-1] * 30}
    hub = datasets.DatasetDict({name: rows(name, labels) for name, labels in sets.items()})
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: hub)
    return hub


def test_the_hubs_validation_split_is_the_test_split_and_its_unlabelled_one_is_left_out(hub):
    splits = SST2().read()
    assert splits["test"]["text"][:] == hub["validation"]["sentence"][:]
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 980, "validation": 20, "test": 40}
    assert not any(text.startswith("test") for rows in splits.values() for text in rows["text"])


def test_validation_is_cut_from_the_hubs_train_by_class(hub):
    data = SST2()
    validation = data.read()["validation"]
    assert sorted(validation["label"]) == [0] * 9 + [1] * 11
    assert validation["text"][:] == [f"train {row - 1}" for row in validation["row"]]
    manifest = data.manifest()
    assert manifest["label_names"] == ["negative", "positive"]
    assert manifest["cut_from_train"]["shares"] == {"train": 0.98, "validation": 0.02}
    assert manifest["sources"]["validation"] == "stanfordnlp/sst2 train"
    assert manifest["sources"]["test"] == "stanfordnlp/sst2 validation"


@pytest.mark.usefixtures("hub")
def test_the_hubs_own_column_name_can_be_given():
    assert len(SST2(text_column="sentence").read()["test"]) == 40


def test_a_wrong_label_on_the_hub_is_named_with_split_and_row(hub):
    hub["validation"] = hub["test"]
    assert "stanfordnlp/sst2 validation, row 1: unknown label -1" in refusal(SST2().read)


@pytest.mark.parametrize("ending", ["jsonl", "csv", "tsv", "parquet"])
def test_local_files_are_taken_as_they_are(tmp_path, ending):
    for name, count in (("train", 6), ("validation", 4), ("test", 2)):
        rows = datasets.Dataset.from_list(labelled([0, 1] * (count // 2)))
        path = str(tmp_path / f"{name}.{ending}")
        if ending == "jsonl":
            rows.to_json(path)
        elif ending == "parquet":
            rows.to_parquet(path)
        else:
            rows.to_csv(path, sep="\t" if ending == "tsv" else ",", index=False)
    data = SST2(data_dir=str(tmp_path))
    assert {name: len(rows) for name, rows in data.read().items()} == {"train": 6, "validation": 4, "test": 2}
    assert data.read()["train"]["label"][:] == [0, 1] * 3
    assert data.manifest()["cut_from_train"] is None


def test_local_files_without_validation_have_it_cut_from_train(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", labelled(["negative", "positive"] * 50))
    splits = SST2(data_dir=str(tmp_path)).read()
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 98, "validation": 2}


def test_a_folder_without_train_is_refused_by_the_files_name(tmp_path):
    assert f"{tmp_path / 'train.jsonl'}: no such file" in refusal(SST2(data_dir=str(tmp_path)).read)


def test_real_sst2_reads_whole(shared):
    splits = SST2(data_dir=str(shared / "data" / "sst2")).read()
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 6116, "validation": 872, "test": 1821}
