from __future__ import annotations

import pytest

from peftlit.data.labels import ClassLabels
from peftlit.data.spelling import distinct_names
from tests.data.helpers import refusal

NAMES = ["negative", "positive"]


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
    assert distinct_names(values) == names


@pytest.mark.parametrize(
    "values",
    [[0, 1, 0], [0.0, 1.0, 0.0], [1.0, 2.0, 1.0], ["0", "1", "0"], [1, 2, 1], [-1, 1, -1], ["a", "b", "a"]],
    ids=repr,
)
def test_inferred_names_give_every_label_its_own_id(values):
    names = distinct_names(values)
    assert ClassLabels(names, "label").parse_column(values, "rows.csv") == [0, 1, 0]


@pytest.mark.parametrize(
    "values", [["positive", "negative"], [1, 0], [1.0, 0.0], ["1", "0"], ["positive", 0]], ids=repr
)
def test_a_label_is_a_name_or_a_class_id(values):
    assert ClassLabels(NAMES, "label").parse_column(values, "rows.csv") == [1, 0]


@pytest.mark.parametrize("value", ["neutral", 2, -1, 0.5, "2", "Positive", True], ids=repr)
def test_an_unknown_label_is_refused_with_its_row_and_all_known(value):
    message = refusal(lambda: ClassLabels(NAMES, "label").parse_column([0, 1, value], "rows.csv"))
    assert f"rows.csv, row 3: unknown label {value!r}; " in message
    assert message.endswith("known are negative, positive")


@pytest.mark.parametrize(
    ("names", "stranger"), [(["1", "2", "3"], 0), (["1", "2", "3"], "0"), (["-1", "1"], 0)], ids=repr
)
def test_where_names_are_numbers_another_number_is_no_class_id(names, stranger):
    message = refusal(lambda: ClassLabels(names, "label").parse_column([names[0], stranger], "rows.csv"))
    assert f"row 2: unknown label {stranger!r}" in message


def test_a_misspelt_label_gets_the_nearest_name():
    message = refusal(lambda: ClassLabels(NAMES, "label").parse_column(["postive"], "rows.csv"))
    assert "did you mean 'positive'?" in message


@pytest.mark.parametrize("value", [None, "", " ", float("nan")], ids=repr)
def test_a_missing_label_is_refused_with_its_row_and_is_no_class(value):
    values = ["negative", "positive", value]
    assert distinct_names(values) == NAMES
    message = refusal(lambda: ClassLabels(NAMES, "stars").parse_column(values, "rows.csv"))
    assert "rows.csv, row 3: no label in column 'stars'" in message


@pytest.mark.parametrize(("ids", "only"), [([1, 1], "positive"), ([], "none")])
def test_fewer_than_two_classes_are_refused(ids, only):
    assert f"one class only ({only})" in refusal(lambda: ClassLabels(NAMES, "label").check(ids, "rows.csv"))


def test_two_of_three_classes_suffice():
    notes = ClassLabels(["a", "b", "c"], "label").check([0, 2], "rows.csv")
    assert notes == ["no row is 'b'"]
