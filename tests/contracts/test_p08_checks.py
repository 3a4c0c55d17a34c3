"""P8: wrong rows are errors with file and row before any weight loads; odd rows are counted, never dropped."""

from __future__ import annotations

import logging
import math
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from peftlit.cli.commands import run
from peftlit.data import StreamedText, TextDataModule, TextFiles, files
from peftlit.data import labelled as labelled_rows
from peftlit.data.checks import RowReport
from peftlit.data.class_ids import ClassIds
from peftlit.data.labels import Values
from peftlit.data.rows import TextReader
from peftlit.errors import PeftlitError
from tests import tiny
from tests.data.helpers import labelled, refusal, text_files, write_jsonl

GOOD = labelled(["neg", "pos", "neg", "pos"])


def contract_refused(action: Callable[[], object], *places: str) -> None:
    """It ends in one line that names these places."""
    message = refusal(action)
    for place in places:
        assert place in message, f"{place!r} is not in: {message}"


def contract_refused_without_tokenizer(data: TextDataModule, *places: str) -> None:
    assert data.tokenizer is None
    contract_refused(data.read, *places)


def contract_counted_and_kept(make: Callable[..., TextDataModule], expected: dict[str, Any]) -> None:
    """Every row is kept, odd ones are counted and listed in the manifest, and ``strict`` refuses them."""
    data = make()
    manifest = data.manifest()
    for split, (count, empty, repeated, shared) in expected.items():
        entry = manifest["splits"][split]
        assert entry["rows"] == len(data.read()[split]) == len(entry["row_hashes"]) == count
        assert entry["empty_texts"] == len(empty)
        assert entry["empty_text_rows"] == empty
        assert entry["duplicates"] == len(repeated)
        assert entry["duplicate_rows"] == repeated
        assert entry["duplicates_of"] == shared
    refusal(make(strict=True).read)


# Errors with file and row ------------------------------------------------------------------------------------------

NAMED, MULTI = {"label_names": ["neg", "pos"]}, {"problem_type": "multi_label_classification"}
VALUES = {"problem_type": "regression"}
WRONG: list[tuple[list[dict[str, Any]], dict[str, Any], str]] = [  # rows, of which the last is wrong; what is said
    *(([*GOOD, *labelled([label])], NAMED, r"unknown label.*neg, pos") for label in ("neutral", "2", 7, -1, 0.5)),
    *((labelled(["neg", "pos", label]), {}, "no label") for label in (None, "")),
    (labelled([0.0, 1.0, math.nan]), {}, "no label"),
    *(
        (labelled([["neg"], [], labels]), {**NAMED, **MULTI}, "")
        for labels in (["neg", "neutral"], ["neg"] * 2, [7], None)
    ),
    *((labelled(["1", "2.5", value]), VALUES, "label.*number") for value in ("good", "", "inf", "nan")),
    ([*GOOD, {"label": "neg"}], {}, "text"),
]


def contract_last_row_is_refused(folder: Path, rows: list[dict[str, Any]], settings: dict[str, Any], said: str) -> None:
    data = text_files(folder, rows, **settings)
    contract_refused_without_tokenizer(data, f"{folder / 'train.jsonl'}, row {len(rows)}")
    assert re.search(said, refusal(data.read))


@pytest.mark.parametrize(("rows", "settings", "said"), WRONG, ids=[repr(rows[-1]) for rows, *_ in WRONG])
def test_p08_wrong_rows_are_refused_with_file_and_row(tmp_path, rows, settings, said):
    contract_last_row_is_refused(tmp_path, rows, settings, said)


@pytest.mark.parametrize("stranger", [0, 6, "3.5"], ids=repr)
def test_p08_unknown_star_rating_in_test_is_refused_with_file_and_row(tmp_path, stranger):
    data = text_files(tmp_path, labelled([1, 2, 3, 4, 5]), labelled([1, stranger]))
    contract_refused_without_tokenizer(data, f"{tmp_path / 'test.jsonl'}, row 2", "unknown label")


@pytest.mark.parametrize("label", ["neutral", 7, None, ""], ids=repr)
def test_p08_wrong_label_in_a_stream_is_refused_with_file_and_row(tmp_path, label):
    tiny.write_tokenizer(tmp_path)
    train = write_jsonl(tmp_path / "train.jsonl", [*GOOD, *labelled([label])])
    data = StreamedText(train_file=train, label_names=["neg", "pos"], tokenizer=str(tmp_path), batch_size=5)
    assert data.read() == {}
    message = refusal(lambda: next(iter(data.train_dataloader())))
    assert message.startswith(f"{train}, row 5: ")


@pytest.mark.parametrize(("column", "near"), [("text_column", "text"), ("label_column", "label")])
def test_p08_wrong_column_is_refused_with_file_and_nearest_name(tmp_path, column, near):
    data = text_files(tmp_path, GOOD, **{column: f"{near}s"})
    said = (f"no column '{near}s'", f"did you mean '{near}'?")
    contract_refused_without_tokenizer(data, str(tmp_path / "train.jsonl"), *said)


@pytest.mark.parametrize("content", [b"text,label\na,neg\ncaf\xe9,pos\n", b"label,text\nneg,a\npos,caf\xe9"])
def test_p08_undecodable_bytes_are_refused_with_file_and_line(tmp_path, content):
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    contract_refused_without_tokenizer(TextFiles(train_file=str(path)), f"{path}, line 3", "0xe9")


def test_p08_undecodable_bytes_in_parquet_are_refused_with_file_and_row(tmp_path):
    path, raw = tmp_path / "rows.parquet", pyarrow.array([b"good", b"caf\xe9"], pyarrow.binary())
    texts = pyarrow.Array.from_buffers(pyarrow.string(), 2, raw.buffers())
    pyarrow.parquet.write_table(pyarrow.table({"text": texts, "label": [0, 1]}), path)
    contract_refused_without_tokenizer(TextFiles(train_file=str(path)), f"{path}, row 2")


def test_p08_breaker_stream_that_does_not_count_its_rows(tmp_path, monkeypatch):
    kept = TextReader.read_row
    monkeypatch.setattr(TextReader, "read_row", lambda self, values, source, row: kept(self, values, source, 1))
    with pytest.raises(AssertionError):
        test_p08_wrong_label_in_a_stream_is_refused_with_file_and_row(tmp_path, "neutral")


def test_p08_breaker_values_that_take_anything_for_zero(tmp_path, monkeypatch):
    monkeypatch.setattr(Values, "parse", lambda self, value, source, row: float(row))
    with pytest.raises(AssertionError, match="had to be refused"):
        contract_last_row_is_refused(tmp_path, labelled(["1", "2.5", "good"]), VALUES, "number")


def test_p08_breaker_label_check_that_takes_unknown_for_zero(tmp_path, monkeypatch):
    monkeypatch.setattr(ClassIds, "find", lambda ids, value, source, row: row % 2)
    with pytest.raises(AssertionError, match="had to be refused"):
        contract_last_row_is_refused(tmp_path, *WRONG[0])


def test_p08_breaker_label_check_that_names_another_row(tmp_path, monkeypatch):
    kept = ClassIds.find
    monkeypatch.setattr(ClassIds, "find", lambda ids, value, source, row: kept(ids, value, source, row - 1))
    with pytest.raises(AssertionError, match="row 5"):
        contract_last_row_is_refused(tmp_path, *WRONG[0])


def test_p08_breaker_no_check_of_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "check_encoding", lambda path: None)
    with pytest.raises((AssertionError, UnicodeDecodeError)):
        test_p08_undecodable_bytes_are_refused_with_file_and_line(tmp_path, b"text,label\na,neg\ncaf\xe9,pos\n")


def test_p08_breaker_no_check_of_columns(tmp_path, monkeypatch):
    monkeypatch.setattr(labelled_rows, "check_columns", lambda *_: None)
    with pytest.raises((AssertionError, KeyError, ValueError)):
        test_p08_wrong_column_is_refused_with_file_and_nearest_name(tmp_path, "text_column", "text")


# Before any weight loads -------------------------------------------------------------------------------------------


def without_weights(model: Path, folder: Path) -> Path:
    """A copy of a model folder that has lost its weights."""
    return Path(shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors")))


@pytest.fixture
def fit(tmp_path, bert, monkeypatch) -> list[str]:
    """A command whose data has one unknown label and whose backbone has lost its weights."""
    monkeypatch.setenv("PEFTLIT_RUN_DIR", "restored after the test")
    monkeypatch.delenv("PEFTLIT_RUN_DIR")
    backbone = without_weights(bert, tmp_path / "backbone")
    train = write_jsonl(tmp_path / "train.jsonl", [*GOOD, *labelled(["neutral"])])
    return [
        "fit",
        *("--model", "SequenceClassification", "--model.backbone.name_or_path", str(backbone)),
        *("--data", "TextFiles", "--data.train_file", train, "--data.label_names", "[neg, pos]"),
        *("--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--run_dir", str(tmp_path / "run")),
    ]


def test_p08_refused_before_any_weight_loads(tmp_path, fit):
    contract_refused(lambda: run(fit), f"{tmp_path / 'train.jsonl'}, row 5", "unknown label 'neutral'")
    assert not (tmp_path / "run").exists()


def test_p08_breaker_data_read_after_the_weights(fit, monkeypatch):
    monkeypatch.setattr(ClassIds, "find", lambda ids, value, source, row: row % 2)
    with pytest.raises((AssertionError, PeftlitError, OSError)):
        contract_refused(lambda: run(fit), "row 5")


# Counted, listed, kept ---------------------------------------------------------------------------------------------

ODD_TRAIN = [*labelled(["neg", "pos", "neg"]), {"text": "", "label": "pos"}, {"text": "good film 1", "label": "neg"}]
ODD_TEST = [
    *({"text": f"only here {i}", "label": "neg"} for i in range(1, 7)),
    *({"text": "good film 2", "label": "pos"}, {"text": " \t", "label": "neg"}),
]


def test_p08_empty_texts_and_duplicates_are_counted_listed_and_kept(tmp_path):
    make = partial(text_files, tmp_path, ODD_TRAIN, ODD_TEST)
    contract_counted_and_kept(make, {"train": (5, [4], [5], {}), "test": (8, [8], [], {"train": 1})})


def test_p08_duplicates_across_splits_are_listed_by_row(tmp_path):
    entry = text_files(tmp_path, ODD_TRAIN, ODD_TEST).manifest()["splits"]["test"]
    assert entry["duplicates_of"] == {"train": 1}
    listed = [value for value in entry.values() if isinstance(value, dict) and value.get("train") == [7]]
    assert listed, "the manifest counts the texts that test shares with train but does not say which rows they are"


def test_p08_rows_shared_across_splits_are_counted_as_rows(tmp_path):
    test = [{"text": text, "label": "neg"} for text in ("good film 1", "fine", "good film 1")]
    data = text_files(tmp_path, GOOD, test)
    assert data.manifest()["splits"]["test"]["duplicates_of"] == {"train": 2}


@pytest.mark.parametrize(
    ("train", "test", "places"),
    [
        ([*GOOD, {"text": "\n", "label": "neg"}], [], ["train.jsonl, row 5", "empty text"]),
        ([*GOOD, GOOD[1]], [], ["train.jsonl, row 5", "repeats"]),
        (GOOD, [{"text": "fine", "label": "neg"}, GOOD[3]], ["test.jsonl", "train"]),
    ],
    ids=["empty", "repeated", "shared"],
)
def test_p08_strict_refuses_each_with_its_file(tmp_path, train, test, places):
    contract_refused(text_files(tmp_path, train, test or None, strict=True).read, *places)


def test_p08_counts_are_told_in_the_log(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "peftlit"):
        text_files(tmp_path, ODD_TRAIN, ODD_TEST).read()
    assert "train: 5 rows (1 empty texts, 1 repeated texts)" in caplog.text
    assert "also stand in train" in caplog.text


def test_p08_breaker_empty_rows_dropped(tmp_path, monkeypatch):
    kept = TextReader.read
    monkeypatch.setattr(TextReader, "read", lambda *given: kept(*given).filter(lambda row: row["text"].strip()))
    with pytest.raises(AssertionError):
        test_p08_empty_texts_and_duplicates_are_counted_listed_and_kept(tmp_path)


def test_p08_breaker_strict_without_effect(tmp_path, monkeypatch):
    monkeypatch.setattr(RowReport, "refuse", lambda self, split, source: None)
    with pytest.raises(AssertionError, match="had to be refused"):
        test_p08_empty_texts_and_duplicates_are_counted_listed_and_kept(tmp_path)
