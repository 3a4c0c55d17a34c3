from __future__ import annotations

import csv
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
from peftlit.data.class_ids import distinct_names
from peftlit.data.labels import ClassLabels, LabelSets, Values
from peftlit.errors import ConfigError
from tests.data.helpers import WHOLE, labelled, refusal, text_files

NAMES = ["negative", "positive"]


def test_label_names_are_the_distinct_labels_in_order():
    for values, names in (
        (["pos", "neg", "pos"], ["neg", "pos"]),
        ([10, 9, 1], ["1", "9", "10"]),
        (["10", "9", "1"], ["1", "9", "10"]),
        ([1, -1], ["-1", "1"]),
        (["b", "2", "a", "10"], ["2", "10", "a", "b"]),
        ([True, False], ["False", "True"]),
        (["a", None, "", " ", float("nan"), "b"], ["a", "b"]),
        (["x²", "²"], ["x²", "²"]),
    ):
        assert distinct_names(values) == names


def parsed(names, values, column="label") -> list[int]:
    return list(ClassLabels(names, column).parse_column(values, "rows.csv"))


def test_inferred_names_give_every_label_its_own_id():
    for a, b in ((0, 1), (0.0, 1.0), (1.0, 2.0), ("0", "1"), (1, 2), (-1, 1), ("a", "b")):
        assert parsed(distinct_names([a, b, a]), [a, b, a]) == [0, 1, 0]


def test_a_label_is_a_name_or_a_class_id():
    for values in (["positive", "negative"], [1, 0], [1.0, 0.0], ["1", "0"], ["positive", 0]):
        assert parsed(NAMES, values) == [1, 0]


def test_an_unknown_label_is_refused_with_its_row_the_nearest_and_all_known():
    unknown = [(NAMES, value, "") for value in ("neutral", 2, -1, 0.5, "2", "Positive", True)]
    unknown += [(NAMES, "postive", "did you mean 'positive'? ")]
    unknown += [(["1", "2", "3"], 0, ""), (["1", "2", "3"], "0", ""), (["-1", "1"], 0, "")]  # names, not class ids
    for names, value, hint in unknown:
        message = refusal(lambda names=names, value=value: parsed(names, [names[0], value]))
        assert f"rows.csv, row 2: unknown label {value!r}; {hint}" in message
        assert message.endswith(f"known are {', '.join(names)}")


def test_a_missing_label_is_refused_with_its_row():
    for value in (None, "", " ", float("nan")):
        message = refusal(lambda value=value: parsed(NAMES, ["negative", "positive", value], "stars"))
        assert message == "rows.csv, row 3: no label in column 'stars'; every row needs one"


def test_fewer_than_two_classes_are_refused_and_empty_ones_noted():
    for ids, only in (([1, 1], "positive"), ([], "none")):
        message = refusal(lambda ids=ids: ClassLabels(NAMES, "label").check(ids, "rows.csv"))
        assert f"one class only ({only})" in message
    assert ClassLabels(["a", "b", "c"], "label").check([0, 2], "rows.csv") == ["no row is 'b'"]


# Label sets --------------------------------------------------------------------------------------------------------

ASPECTS = ["price", "quality", "service"]


def _sets(values, names=ASPECTS):
    return list(LabelSets(names, "aspects", ";").parse_column(values, "rows.csv"))


def test_a_label_set_is_a_list_or_a_joined_text_in_any_order():
    for values in (
        ["price;service", "", "quality"],
        [" price ; service", "  ", "quality "],
        ["service;price", "", "quality"],
        [["price", "service"], [], ["quality"]],
        [[" service", "price"], [], ["quality "]],
        [[0, 2], [], [1]],
        ["0;2", "", "1"],
        [["price", 2], [], ["quality"]],
    ):
        assert _sets(values) == [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    assert LabelSets(ASPECTS, "aspects", "|").parse("price|service", "rows.csv", 1) == [1.0, 0.0, 1.0]


def test_what_is_no_set_of_known_names_is_refused_with_its_row():
    known = "known are price, quality, service"
    no_set = "needs a list of names or class ids, or a text of names with ';' between them"
    for values, said in (
        (("price;prize", ["prize"]), f"unknown label 'prize'; did you mean 'price'? {known}"),
        (("price;", "price;;quality", [""]), f"unknown label ''; {known}"),
        (([3],), f"unknown label 3; {known}"),
        (([True],), f"unknown label True; {known}"),
        (
            ("price;quality;price", ["price", "price"], ["price", 0], [0, 0]),
            "label 'price' twice in {!r}; name it once",
        ),
        ((None, float("nan"), 1, [None], [0.0, 1.0], [["price"]]), f"aspects is {{!r}}, {no_set}"),  # [0.0, 1.0]: flags
    ):
        for value in values:
            assert refusal(lambda value=value: _sets(["", value])) == f"rows.csv, row 2: {said.format(value)}"


def test_labels_that_no_row_or_every_row_carries_are_noted():
    kind = LabelSets(ASPECTS, "aspects", ";")
    rows = list(kind.parse_column(["quality", "quality;price"], "rows.csv"))
    assert kind.check(rows, "rows.csv") == ["no row carries 'service'", "every row carries 'quality'"]
    assert kind.counts(rows) == [1, 2, 0]
    assert kind.summary(rows) == {"price": 1, "quality": 2, "service": 0}
    message = refusal(lambda: kind.check(_sets(["", ""]), "rows.csv"))
    assert message == "rows.csv: no training row carries a label; there is nothing to learn"


# Values ------------------------------------------------------------------------------------------------------------


def test_a_value_is_a_finite_number_or_a_text_that_is_one():
    for value in (3, 3.0, "3", " 3.0 ", "3e0", Decimal(3)):
        label = Values("stars").parse(value, "rows.csv", 1)
        assert (label, type(label)) == (3.0, float)
    odd = ("good", "4,5", "nan", "inf", float("nan"), float("-inf"), 1e39, 10**400, True, [1.0])
    for values, said in (
        ((None, "", "  "), "no value in column 'stars'; every row needs a number"),
        (odd, "stars is {!r}, needs a finite number"),
    ):
        for value in values:
            message = refusal(lambda value=value: list(Values("stars").parse_column([1, value], "rows.csv")))
            assert message == f"rows.csv, row 2: {said.format(value)}"


def test_values_are_summed_up_and_not_counted_and_a_constant_is_refused():
    stars = Values("stars")
    assert stars.summary([1.0, 2.0, 6.0]) == {"lowest": 1.0, "mean": 3.0, "highest": 6.0}
    assert stars.counts([1.0, 2.0]) is None
    assert stars.check([3.0, 4.0], "rows.csv") == []
    message = refusal(lambda: stars.check([3.0, 3.0], "rows.csv"))
    assert message == "rows.csv: stars is 3 in every training row; there is nothing to learn"


# Through the data module -------------------------------------------------------------------------------------------

REVIEWS = Path(__file__).parents[2] / "configs" / "data" / "product_reviews.csv"
MULTI = {"problem_type": "multi_label_classification"}


@pytest.mark.parametrize(
    ("column", "names", "settings", "parse"),
    [
        (
            "aspects",
            ["delivery", "price", "quality", "service", "usability"],
            MULTI,
            lambda names, text: [float(name in text.split(";")) for name in names],
        ),
        ("stars", ["stars"], {"problem_type": "regression"}, lambda names, text: float(text)),
    ],
    ids=["aspects", "stars"],
)
def test_the_shipped_reviews_have_label_sets_and_values(column, names, settings, parse):
    with REVIEWS.open(encoding="utf-8", newline="") as file:
        written = {number: parse(names, row[column]) for number, row in enumerate(csv.DictReader(file), 1)}
    data = Reviews(file=str(REVIEWS), label_column=column, **settings)
    splits = data.read().values()
    assert {row: label for part in splits for row, label in zip(part["row"], part["label"], strict=True)} == written
    assert data.label_names == names
    train, report = data.read()["train"]["label"], data.reports["train"].labels
    counts = None if column == "stars" else [sum(map(int, carried)) for carried in zip(*train, strict=True)]
    assert data.class_counts == counts
    assert list(report.values()) == counts if counts else report["lowest"] == 1.0
    assert data.manifest()["problem_type"] == settings["problem_type"]
    json.dumps(data.manifest(), allow_nan=False)


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
    rows, file = labelled([[], ["b", "a"], ["a"]]), str(tmp_path / "rows.parquet")
    datasets.Dataset.from_list(rows).to_parquet(file)
    for data in (text_files(tmp_path, rows, **MULTI), TextFiles(train_file=file, **WHOLE, **MULTI)):
        assert data.read()["train"]["label"][:] == [[0.0, 0.0], [1.0, 1.0], [1.0, 0.0]]
        assert data.label_names == ["a", "b"]


def test_an_odd_label_is_logged_once_and_stands_in_the_report(tmp_path, caplog):
    data = text_files(tmp_path, labelled([["a"], ["a", "b"]]), label_names=["a", "b", "c"], **MULTI)
    with caplog.at_level(logging.INFO, "peftlit"):
        data.read()
        data.read()
    assert caplog.messages.count("train: no row carries 'c'") == 1
    assert data.manifest()["splits"]["train"]["notes"] == ["no row carries 'c'", "every row carries 'a'"]


def test_settings_that_contradict_each_other_are_refused():
    for settings, said in (
        (
            {"problem_type": "regression", "label_names": ["a", "b"]},
            "label_names: regression has no classes, but got a, b; set it to null",
        ),
        ({"label_names": ["a", "b", "a"]}, "label_names: a name stands there twice: a, b, a"),
        (
            {"label_separator": ""},
            "label_separator: got an empty text, needs what stands between two names, such as ';'",
        ),
    ):
        assert refusal(lambda given=settings: TextFiles(train_file="-", **given), ConfigError) == f"data.{said}"


@pytest.mark.parametrize("names", [None, ["bad", "good"]])
def test_labels_that_are_no_text_are_named_by_row(tmp_path, names):
    labels = pyarrow.array([b"good", b"bad", b"caf\xe9"]).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b", "c"], "label": labels}), tmp_path / "a.parquet")
    data = TextFiles(train_file=str(tmp_path / "a.parquet"), label_names=names)
    assert refusal(data.read) == f"{tmp_path}/a.parquet, row 3: label holds bytes that are not UTF-8"


def test_other_labels_give_other_row_hashes():
    for kind, labels in (
        (LabelSets(["a", "b"], "label", ";"), [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]]),
        (Values("label"), [1.0, 1.5, 10.0]),
    ):
        rows = datasets.Dataset.from_dict({"row": range(len(labels)), "text": ["x"] * len(labels), "label": labels})
        assert len(set(describe_splits({"train": rows}, kind)[1]["train"])) == len(labels)
