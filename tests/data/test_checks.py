from __future__ import annotations

import datasets
import pytest

from peftlit.data import checks
from tests.data.helpers import refusal

LABELS = {"negative": 3, "positive": 3}


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


def test_a_report_counts_empty_texts_and_repeats_by_source_row():
    report, keys = checks.report_rows(["a", " \t", "b", "a", "a", ""], [3, 5, 6, 7, 9, 11], LABELS)
    assert len(keys) == 4
    assert report.rows == 6
    assert report.labels == LABELS
    assert (report.empty_texts, report.empty_text_rows) == (2, [5, 11])
    assert (report.duplicates, report.duplicate_rows) == (2, [7, 9])


def test_a_report_counts_all_and_lists_the_first():
    report, _ = checks.report_rows([""] * 50, range(1, 51), LABELS)
    assert report.empty_texts == 50
    assert report.duplicates == 49
    assert report.empty_text_rows == list(range(1, len(report.empty_text_rows) + 1))


@pytest.mark.parametrize(
    ("texts", "says"),
    [(["a", "b", ""], "rows.csv, row 3: empty text"), (["a", "b", "a", "b"], "rows.csv, row 3: repeats")],
)
def test_strict_refuses_the_first_finding_with_its_row(texts, says):
    report, _ = checks.report_rows(texts, range(1, len(texts) + 1), LABELS)
    assert says in refusal(lambda: checks.refuse_if_strict({"train": report}, {"train": "rows.csv"}))


def test_strict_accepts_clean_rows():
    checks.refuse_if_strict({"train": checks.report_rows(["a", "b"], [1, 2], LABELS)[0]}, {"train": "rows.csv"})
