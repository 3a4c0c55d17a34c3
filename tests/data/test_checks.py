from __future__ import annotations

import datasets
import pytest

from peftlit.data import checks
from tests.data.helpers import refusal

NAMES = ["negative", "positive"]


def test_a_missing_column_is_named_with_the_nearest_and_all_others():
    rows = datasets.Dataset.from_dict({"sentence": ["a"], "labels": [1]})
    checks.check_columns(rows, ["sentence", "labels"], "rows.csv")
    message = refusal(lambda: checks.check_columns(rows, ["sentence", "label"], "rows.csv"))
    assert message == "rows.csv: no column 'label'; did you mean 'labels'? its columns are sentence, labels"
    assert "did you mean" not in refusal(lambda: checks.check_columns(rows, ["zzz"], "rows.csv"))


@pytest.mark.parametrize("value", [None, 3, 2.5, ["a"], b"a"])
def test_a_value_that_is_no_text_is_refused_with_its_row(value):
    message = refusal(lambda: checks.check_texts(["a", "", value], "body", "rows.jsonl"))
    assert message == f"rows.jsonl, row 3: body is {value!r}, needs a text"


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["pos", "neg", "pos"], ["neg", "pos"]),
        ([10, 9, 1], ["1", "9", "10"]),
        (["10", "9", "1"], ["1", "9", "10"]),
        ([1, -1], ["-1", "1"]),
        (["b", "2", "a", "10"], ["2", "10", "a", "b"]),
        ([True, False], ["False", "True"]),
        (["a", None, "", "b"], ["a", "b"]),
        (["x²", "²"], ["x²", "²"]),
    ],
)
def test_label_names_are_the_distinct_labels_in_order(values, names):
    assert checks.infer_label_names(values) == names


@pytest.mark.parametrize(
    "values",
    [[0, 1, 0], [0.0, 1.0, 0.0], [1.0, 2.0, 1.0], ["0", "1", "0"], [1, 2, 1], [-1, 1, -1], ["a", "b", "a"]],
    ids=repr,
)
def test_inferred_names_give_every_label_its_own_id(values):
    names = checks.infer_label_names(values)
    assert checks.label_ids(values, names, "label", "rows.csv") == [0, 1, 0]


@pytest.mark.parametrize(
    "values", [["positive", "negative"], [1, 0], [1.0, 0.0], ["1", "0"], ["positive", 0]], ids=repr
)
def test_a_label_is_a_name_or_a_class_id(values):
    assert checks.label_ids(values, NAMES, "label", "rows.csv") == [1, 0]


@pytest.mark.parametrize("value", ["neutral", 2, -1, 0.5, "2", "Positive", True], ids=repr)
def test_an_unknown_label_is_refused_with_its_row_and_all_known(value):
    message = refusal(lambda: checks.label_ids([0, 1, value], NAMES, "label", "rows.csv"))
    assert f"rows.csv, row 3: unknown label {value!r}; " in message
    assert message.endswith("known are negative, positive")


@pytest.mark.parametrize(
    ("names", "stranger"), [(["1", "2", "3"], 0), (["1", "2", "3"], "0"), (["-1", "1"], 0)], ids=repr
)
def test_where_names_are_numbers_another_number_is_no_class_id(names, stranger):
    message = refusal(lambda: checks.label_ids([names[0], stranger], names, "label", "rows.csv"))
    assert f"row 2: unknown label {stranger!r}" in message


def test_a_misspelt_label_gets_the_nearest_name():
    message = refusal(lambda: checks.label_ids(["postive"], NAMES, "label", "rows.csv"))
    assert "did you mean 'positive'?" in message


@pytest.mark.parametrize("value", [None, "", " ", float("nan")], ids=repr)
def test_a_missing_label_is_refused_with_its_row_and_is_no_class(value):
    values = ["negative", "positive", value]
    assert checks.infer_label_names(values) == NAMES
    message = refusal(lambda: checks.label_ids(values, NAMES, "stars", "rows.csv"))
    assert "rows.csv, row 3: no label in column 'stars'" in message


@pytest.mark.parametrize(("ids", "only"), [([1, 1], "positive"), ([], "none")])
def test_fewer_than_two_classes_are_refused(ids, only):
    assert f"one class only ({only})" in refusal(lambda: checks.check_classes(ids, NAMES, "rows.csv"))


def test_two_of_three_classes_suffice():
    checks.check_classes([0, 2], ["a", "b", "c"], "rows.csv")


def test_a_report_counts_classes_empty_texts_and_repeats_by_source_row():
    report = checks.report_rows(["a", " \t", "b", "a", "a", ""], [0, 1, 1, 0, 1, 0], [3, 5, 6, 7, 9, 11], NAMES)
    assert report.rows == 6
    assert report.labels == {"negative": 3, "positive": 3}
    assert (report.empty_texts, report.empty_text_rows) == (2, [5, 11])
    assert (report.duplicates, report.duplicate_rows) == (2, [7, 9])


def test_a_report_counts_all_and_lists_the_first():
    report = checks.report_rows([""] * 50, [0] * 50, range(1, 51), NAMES)
    assert report.empty_texts == 50
    assert report.duplicates == 49
    assert report.empty_text_rows == list(range(1, len(report.empty_text_rows) + 1))


@pytest.mark.parametrize(
    ("texts", "says"),
    [(["a", "b", ""], "rows.csv, row 3: empty text"), (["a", "b", "a", "b"], "rows.csv, row 3: repeats")],
)
def test_strict_refuses_the_first_finding_with_its_row(texts, says):
    report = checks.report_rows(texts, [0] * len(texts), range(1, len(texts) + 1), NAMES)
    assert says in refusal(lambda: checks.refuse_if_strict({"train": report}, {"train": "rows.csv"}))


def test_strict_accepts_clean_rows():
    checks.refuse_if_strict({"train": checks.report_rows(["a", "b"], [0, 1], [1, 2], NAMES)}, {"train": "rows.csv"})
