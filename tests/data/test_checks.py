from __future__ import annotations

import datasets
import pytest

from peftlit.data import checks
from peftlit.data.labels import ClassLabels
from tests.data.helpers import refusal


def _described(**texts: list[str]) -> tuple[dict[str, checks.RowReport], dict[str, list[str]]]:
    """Describe splits with these texts, whose rows count from 1 and have the classes in turn."""
    splits = {
        split: datasets.Dataset.from_dict(
            {"row": range(1, len(part) + 1), "text": part, "label": [i % 2 for i in range(len(part))]}
        )
        for split, part in texts.items()
    }
    return checks.describe_splits(splits, ClassLabels(["negative", "positive"], "label"))


def test_a_missing_column_is_named_with_the_nearest_and_all_others():
    columns = ["sentence", "labels"]
    checks.check_columns(columns, ["sentence", "labels"], "rows.csv")
    message = refusal(lambda: checks.check_columns(columns, ["sentence", "label"], "rows.csv"))
    assert message == "rows.csv: no column 'label'; did you mean 'labels'? its columns are sentence, labels"
    assert "did you mean" not in refusal(lambda: checks.check_columns(columns, ["zzz"], "rows.csv"))


@pytest.mark.parametrize("values", [["a", None], [3], [2.5], [["a"]], [b"a"]])
def test_a_value_that_is_no_text_is_refused_with_its_row(values):
    rows = datasets.Dataset.from_dict({"body": values})
    message = refusal(lambda: list(checks.checked_texts(rows, "body", "rows.jsonl")))
    assert message == f"rows.jsonl, row {len(values)}: body is {values[-1]!r}, needs a text"


def test_a_pair_is_one_text_in_the_order_of_the_rows():
    texts = [f"text {i}" for i in range(2500)]
    rows = datasets.Dataset.from_dict({"text_pair": texts[::-1], "text": texts})
    expected = [f"{a}\x1e{b}" for a, b in zip(texts, texts[::-1], strict=True)]
    assert list(checks.joined_texts(rows)) == expected
    assert list(checks.joined_texts(rows.remove_columns("text_pair"))) == texts


def test_a_report_counts_all_and_lists_the_first():
    found = _described(train=["a", " \t", *[""] * 50])[0]["train"].as_dict()
    assert (found["rows"], found["labels"]) == (52, {"negative": 26, "positive": 26})
    assert (found["empty_texts"], found["empty_text_rows"]) == (51, list(range(2, 22)))
    assert (found["duplicates"], found["duplicate_rows"]) == (49, list(range(4, 24)))


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["a", "b", "", ""], "rows.csv, row 3: empty text (2 in train; strict)"),
        (["a", "b", "a", "b"], "rows.csv, row 3: repeats an earlier text (2 do; strict)"),
    ],
)
def test_strict_refuses_the_first_finding_with_its_row(texts, says):
    found = _described(train=texts)[0]["train"]
    assert refusal(lambda: found.refuse("train", "rows.csv")) == says
    _described(train=["a", "b"])[0]["train"].refuse("train", "rows.csv")


def test_every_split_is_read_once_and_its_rows_are_hashed_once(monkeypatch):
    read: list[str] = []
    hashed: list[str] = []
    texts = {"train": ["a", "b"], "validation": ["c", "a"], "test": ["d", "b", "a"]}
    iterate, name = checks.joined_texts, checks.row_hash
    monkeypatch.setattr(checks, "joined_texts", lambda rows: read.append(rows["text"][0]) or iterate(rows))
    monkeypatch.setattr(checks, "row_hash", lambda text, label: hashed.append(text) or name(text, label))
    reports, hashes = _described(**texts)
    assert read == ["a", "c", "d"]
    assert hashed == [text for part in texts.values() for text in part]
    assert hashes["test"][2] == hashes["train"][0] == name("a", "negative") == "e2b63b1a4b5360d4"
    assert reports["validation"].shared == {"train": [2]}
    assert reports["test"].shared == {"train": [2, 3], "validation": [3]}
