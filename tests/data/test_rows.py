from __future__ import annotations

import datasets
import pytest

from peftlit.data import TextDataModule
from peftlit.errors import ConfigError
from tests.conftest import toy_rows
from tests.data.helpers import labelled, refusal, text_files


def test_max_train_samples_keeps_the_first_training_rows_that_the_cut_leaves(tmp_path):
    settings = {"validation_share": 0.1, "test_share": 0.2}
    whole = text_files(tmp_path, toy_rows(100), **settings).read()
    data = text_files(tmp_path, toy_rows(100), max_train_samples=20, **settings)
    assert data.read()["train"]["row"][:] == whole["train"]["row"][:20]
    for split in ("validation", "test"):
        assert data.read()[split]["row"][:] == whole[split]["row"][:]
    assert sum(data.class_counts) == data.reports["train"].rows == 20
    manifest = data.manifest()
    assert manifest["max_train_samples"] == 20
    assert len(manifest["splits"]["train"]["row_hashes"]) == 20


def test_rows_that_max_train_samples_leaves_out_are_not_looked_at_for_duplicates(tmp_path):
    rows = labelled("abab")
    data = text_files(tmp_path, [*rows, rows[0]], rows[3:], max_train_samples=3, strict=True)
    assert data.manifest()["splits"]["test"]["duplicates_of"] == {}


def test_a_limit_above_the_number_of_rows_changes_nothing(tmp_path):
    rows = labelled("abab")
    limited = text_files(tmp_path, rows, max_train_samples=4).manifest()
    assert limited["max_train_samples"] is None
    assert limited["sha256"] == text_files(tmp_path, rows).manifest()["sha256"]


def test_a_limit_that_leaves_one_class_is_refused(tmp_path):
    assert "one class only (a)" in refusal(text_files(tmp_path, labelled("aabb"), max_train_samples=2).read)


def test_a_limit_below_one_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="data.max_train_samples: got 0, needs 1 or more"):
        text_files(tmp_path, labelled("ab"), max_train_samples=0)


def test_a_set_of_ones_own_is_a_class_with_one_method():
    class Mine(TextDataModule):
        def load(self):
            return {"train": datasets.Dataset.from_list(labelled("ab" * 20)), "notes": datasets.Dataset.from_dict({})}

    data = Mine()
    assert {name: len(rows) for name, rows in data.read().items()} == {"train": 32, "validation": 4, "test": 4}


def test_a_set_without_rows_is_refused():
    class Mine(TextDataModule):
        def load(self):
            rows = datasets.Dataset.from_list(labelled("ab" * 20))
            return {"train": rows, "test": rows.select([])}

    assert refusal(Mine().read) == "Mine test: no rows"


def test_splits_are_compared_with_those_before_them_whatever_the_order_given(tmp_path):
    class Mine(TextDataModule):
        def load(self):
            rows = datasets.Dataset.from_list(labelled("ab"))
            return {"test": rows, "validation": rows, "train": rows}

    data = Mine()
    assert list(data.read()) == ["train", "validation", "test"]
    assert [report.duplicates_of for report in data.reports.values()] == [
        {},
        {"train": 2},
        {"train": 2, "validation": 2},
    ]
