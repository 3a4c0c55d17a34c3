from __future__ import annotations

import csv
import itertools
import json
import logging
from decimal import Decimal
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from peftlit.data import Reviews, TextFiles
from peftlit.data.checks import describe_splits
from peftlit.data.label_names import distinct_names
from peftlit.data.labels import ClassLabels, Labels, LabelSets, Values
from peftlit.errors import ConfigError
from tests.data.helpers import WHOLE, labelled, refusal, text_files

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
    assert list(ClassLabels(names, "label").parse_column(values, "rows.csv")) == [0, 1, 0]


@pytest.mark.parametrize(
    "values", [["positive", "negative"], [1, 0], [1.0, 0.0], ["1", "0"], ["positive", 0]], ids=repr
)
def test_a_label_is_a_name_or_a_class_id(values):
    assert list(ClassLabels(NAMES, "label").parse_column(values, "rows.csv")) == [1, 0]


@pytest.mark.parametrize("value", ["neutral", 2, -1, 0.5, "2", "Positive", True], ids=repr)
def test_an_unknown_label_is_refused_with_its_row_and_all_known(value):
    message = refusal(lambda: list(ClassLabels(NAMES, "label").parse_column([0, 1, value], "rows.csv")))
    assert f"rows.csv, row 3: unknown label {value!r}; " in message
    assert message.endswith("known are negative, positive")


@pytest.mark.parametrize(
    ("names", "stranger"), [(["1", "2", "3"], 0), (["1", "2", "3"], "0"), (["-1", "1"], 0)], ids=repr
)
def test_where_names_are_numbers_another_number_is_no_class_id(names, stranger):
    message = refusal(lambda: list(ClassLabels(names, "label").parse_column([names[0], stranger], "rows.csv")))
    assert f"row 2: unknown label {stranger!r}" in message


def test_a_misspelt_label_gets_the_nearest_name():
    message = refusal(lambda: list(ClassLabels(NAMES, "label").parse_column(["postive"], "rows.csv")))
    assert "did you mean 'positive'?" in message


@pytest.mark.parametrize("value", [None, "", " ", float("nan")], ids=repr)
def test_a_missing_label_is_refused_with_its_row_and_is_no_class(value):
    values = ["negative", "positive", value]
    assert distinct_names(values) == NAMES
    message = refusal(lambda: list(ClassLabels(NAMES, "stars").parse_column(values, "rows.csv")))
    assert "rows.csv, row 3: no label in column 'stars'" in message


@pytest.mark.parametrize(("ids", "only"), [([1, 1], "positive"), ([], "none")])
def test_fewer_than_two_classes_are_refused(ids, only):
    assert f"one class only ({only})" in refusal(lambda: ClassLabels(NAMES, "label").check(ids, "rows.csv"))


def test_two_of_three_classes_suffice():
    notes = ClassLabels(["a", "b", "c"], "label").check([0, 2], "rows.csv")
    assert notes == ["no row is 'b'"]


# Label sets --------------------------------------------------------------------------------------------------------

ASPECTS = ["price", "quality", "service"]


def _sets(values, names=ASPECTS):
    return list(LabelSets(names, "aspects", ";").parse_column(values, "rows.csv"))


@pytest.mark.parametrize(
    "values",
    [
        ["price;service", "", "quality"],
        [" price ; service", "  ", "quality "],
        ["service;price", "", "quality"],
        [["price", "service"], [], ["quality"]],
        [[" service", "price"], [], ["quality "]],
        [[0, 2], [], [1]],
        ["0;2", "", "1"],
        [["price", 2], [], ["quality"]],
    ],
    ids=repr,
)
def test_a_label_set_is_a_list_or_a_joined_text_in_any_order(values):
    assert _sets(values) == [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]


def test_another_separator_can_be_told():
    assert LabelSets(ASPECTS, "aspects", "|").parse("price|service", "rows.csv", 1) == [1.0, 0.0, 1.0]


@pytest.mark.parametrize("value", ["price;prize", ["price", "prize"]], ids=repr)
def test_an_unknown_name_in_a_set_is_refused_with_its_row_and_the_nearest(value):
    message = refusal(lambda: _sets(["", value]))
    assert message == (
        "rows.csv, row 2: unknown label 'prize'; did you mean 'price'? known are price, quality, service"
    )


@pytest.mark.parametrize(
    ("value", "item"), [("price;", "''"), ("price;;quality", "''"), ([""], "''"), ([3], "3"), ([True], "True")]
)
def test_an_empty_or_unknown_item_of_a_set_is_refused(value, item):
    assert f"rows.csv, row 1: unknown label {item}; known are" in refusal(lambda: _sets([value]))


@pytest.mark.parametrize("value", ["price;quality;price", ["price", "price"], ["price", 0], [0, 0]], ids=repr)
def test_a_name_twice_in_a_set_is_refused_with_its_row(value):
    message = refusal(lambda: _sets(["", "", value]))
    assert message == f"rows.csv, row 3: label 'price' twice in {value!r}; name it once"


@pytest.mark.parametrize("value", [None, float("nan"), 1, [None], [0.0, 1.0], [["price"]]], ids=repr)
def test_what_is_no_set_is_refused_with_its_row_so_that_flags_are_not_taken_for_ids(value):
    message = refusal(lambda: _sets([value]))
    assert message == (
        f"rows.csv, row 1: aspects is {value!r}, needs a list of names or class ids, "
        "or a text of names with ';' between them"
    )


def test_labels_that_no_row_or_every_row_carries_are_noted():
    kind = LabelSets(ASPECTS, "aspects", ";")
    rows = list(kind.parse_column(["quality", "quality;price"], "rows.csv"))
    assert kind.check(rows, "rows.csv") == ["no row carries 'service'", "every row carries 'quality'"]
    assert kind.counts(rows) == [1, 2, 0]
    assert kind.summary(rows) == {"price": 1, "quality": 2, "service": 0}


def test_rows_without_any_label_are_refused():
    kind = LabelSets(ASPECTS, "aspects", ";")
    message = refusal(lambda: kind.check(_sets(["", ""]), "rows.csv"))
    assert message == "rows.csv: no training row carries a label; there is nothing to learn"


def test_other_sets_have_other_spellings():
    kind = LabelSets(["a", "b", "ab"], "label", ";")
    spelled = {kind.to_csv(label) for label in itertools.product([0.0, 1.0], repeat=3)}
    assert len(spelled) == 8


# Values ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [3, 3.0, "3", " 3.0 ", "3e0", Decimal(3)], ids=repr)
def test_a_value_is_a_number_or_a_text_that_is_one(value):
    label = Values("stars").parse(value, "rows.csv", 1)
    assert label == 3.0
    assert isinstance(label, float)


@pytest.mark.parametrize("value", [None, "", "  "], ids=repr)
def test_a_missing_value_is_refused_with_its_row(value):
    message = refusal(lambda: list(Values("stars").parse_column([1, 2, value], "rows.csv")))
    assert message == "rows.csv, row 3: no value in column 'stars'; every row needs a number"


@pytest.mark.parametrize(
    "value", ["good", "4,5", "nan", "inf", float("nan"), float("-inf"), 1e39, True, [1.0]], ids=repr
)
def test_what_is_no_finite_number_is_refused_with_its_row(value):
    message = refusal(lambda: list(Values("stars").parse_column([1, value], "rows.csv")))
    assert message == f"rows.csv, row 2: stars is {value!r}, needs a finite number"


def test_a_constant_is_refused():
    message = refusal(lambda: Values("stars").check([3.0, 3.0], "rows.csv"))
    assert message == "rows.csv: stars is 3 in every training row; there is nothing to learn"
    assert Values("stars").check([3.0, 4.0], "rows.csv") == []


def test_values_are_summed_up_and_not_counted():
    assert Values("stars").summary([1.0, 2.0, 6.0]) == {"lowest": 1.0, "mean": 3.0, "highest": 6.0}
    assert Values("stars").counts([1.0, 2.0]) is None


# Through the data module -------------------------------------------------------------------------------------------

REVIEWS = Path(__file__).parents[2] / "configs" / "data" / "product_reviews.csv"
MULTI = {"problem_type": "multi_label_classification"}


def _columns() -> dict[str, list[str]]:
    with REVIEWS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [row[name] for row in rows] for name in rows[0]}


def test_the_aspects_of_the_shipped_reviews_are_label_sets():
    data = Reviews(file=str(REVIEWS), label_column="aspects", **MULTI)
    written = _columns()["aspects"]
    read = {row: label for part in data.read().values() for row, label in zip(part["row"], part["label"], strict=True)}
    assert data.label_names == ["delivery", "price", "quality", "service", "usability"]
    for row, aspects in enumerate(written, 1):
        named = [name for name, carried in zip(data.label_names, read[row], strict=True) if carried]
        assert named == sorted(filter(None, aspects.split(";"))), f"row {row}"
    train = [set(written[row - 1].split(";")) for row in data.read()["train"]["row"]]
    assert data.class_counts == [sum(name in aspects for aspects in train) for name in data.label_names]
    assert list(data.reports["train"].labels.values()) == data.class_counts
    assert data.manifest()["problem_type"] == "multi_label_classification"


def test_the_stars_of_the_shipped_reviews_are_values():
    data = Reviews(file=str(REVIEWS), label_column="stars", problem_type="regression")
    written = _columns()["stars"]
    for part in data.read().values():
        assert part["label"][:] == [float(written[row - 1]) for row in part["row"]]
    assert data.label_names == ["stars"]
    assert data.class_counts is None
    assert data.reports["train"].labels["lowest"] == 1.0
    json.dumps(data.manifest(), allow_nan=False)


def test_class_counts_are_training_rows_by_class(tmp_path):
    data = text_files(tmp_path, labelled(["neg", "pos", "neg"]), labelled(["pos"]))
    assert data.class_counts == [2, 1]


def test_names_that_a_set_declares_are_taken(tmp_path):
    names = datasets.ClassLabel(names=["b", "a"])
    rows = {"text": ["x", "y"], "one": [0, 1], "many": [[0], [0, 1]]}
    features = {"text": datasets.Value("string"), "one": names, "many": datasets.List(names)}
    datasets.Dataset.from_dict(rows, features=datasets.Features(features)).save_to_disk(tmp_path / "rows")
    for column, settings in (("one", {}), ("many", MULTI)):
        data = TextFiles(train_file=str(tmp_path / "rows"), label_column=column, **WHOLE, **settings)
        data.read()
        assert data.label_names == ["b", "a"]


def test_lists_of_names_are_read_from_json_lines_and_parquet(tmp_path):
    rows = labelled([[], ["b", "a"], ["a"]])
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    for data in (
        text_files(tmp_path, rows, **MULTI),
        TextFiles(train_file=str(tmp_path / "rows.parquet"), **WHOLE, **MULTI),
    ):
        assert data.read()["train"]["label"][:] == [[0.0, 0.0], [1.0, 1.0], [1.0, 0.0]]
        assert data.label_names == ["a", "b"]


def test_an_odd_label_is_logged_once_and_stands_in_the_report(tmp_path, caplog):
    data = text_files(tmp_path, labelled([["a"], ["a", "b"]]), label_names=["a", "b", "c"], **MULTI)
    with caplog.at_level(logging.INFO, "peftlit"):
        data.read()
        data.read()
    assert caplog.messages.count("train: no row carries 'c'") == 1
    assert data.manifest()["splits"]["train"]["notes"] == ["no row carries 'c'", "every row carries 'a'"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"problem_type": "regression", "label_names": ["a", "b"]}, "regression has no classes, but got a, b"),
        ({"label_names": ["a", "b", "a"]}, "data.label_names: a name stands there twice: a, b, a"),
        ({"label_separator": ""}, "data.label_separator: got an empty text"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, says):
    with pytest.raises(ConfigError, match=says):
        TextFiles(train_file="-", **settings)


@pytest.mark.parametrize("names", [None, ["bad", "good"]])
def test_labels_that_are_no_text_are_named_by_row(tmp_path, names):
    labels = pyarrow.array([b"good", b"bad", b"caf\xe9"]).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b", "c"], "label": labels}), tmp_path / "a.parquet")
    data = TextFiles(train_file=str(tmp_path / "a.parquet"), label_names=names)
    assert refusal(data.read) == f"{tmp_path}/a.parquet, row 3: label holds bytes that are not UTF-8"


def test_other_labels_give_other_row_hashes():
    def hashes(rows: datasets.Dataset, labels: Labels) -> set[str]:
        return set(describe_splits({"train": rows.add_column("row", [*range(len(rows))])}, labels)[1]["train"])

    rows = datasets.Dataset.from_dict({"text": ["x"] * 4, "label": [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]]})
    assert len(hashes(rows, LabelSets(["a", "b"], "label", ";"))) == 4
    rows = datasets.Dataset.from_dict({"text": ["x"] * 3, "label": [1.0, 1.5, 10.0]})
    assert len(hashes(rows, Values("label"))) == 3
