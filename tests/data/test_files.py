from __future__ import annotations

import os
from itertools import product
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from peftlit.data.files import iterate_rows, read_hub, read_rows
from tests.data.helpers import refusal, write_as, write_jsonl

ROWS = {"text": ["a good film", "naïve, and “long”", 'say "hi",\n\tNA', "NA"], "label": ["pos", "neg", "neg", "null"]}


@pytest.mark.parametrize(
    "name", ["rows.csv", "ROWS.CSV", "rows.tsv", "rows.jsonl", "rows.json", "rows.parquet", "arrow"]
)
def test_every_format_gives_the_same_rows_memory_mapped(tmp_path, name):
    path = write_as(tmp_path / name, ROWS)
    rows = read_rows(path)
    assert rows[:] == ROWS
    assert rows.cache_files, "held in memory instead of mapped from disk"
    assert name == "arrow" or list(iterate_rows(path)) == list(rows)


CSV_VALUES = {
    '"a, b"': "a, b",
    '"a\nb"': "a\nb",
    '"a\r\nb"': "a\r\nb",
    '"say ""hi"""': 'say "hi"',
    **{text: text for text in ('5" disk', "NA", "nan", "", "007", "1e5", "  a  ", "x" * 200_000)},
}
"""By how they are written."""


@pytest.mark.parametrize(("ending", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_csv_values_stay_text_exactly_as_written(tmp_path, ending, delimiter):
    path = tmp_path / f"rows.{ending}"
    lines = [f"{written}{delimiter}1\n" for written in CSV_VALUES]
    path.write_bytes("".join([f"text{delimiter}label\n", *lines]).encode())
    assert read_rows(path)[:] == {"text": [*CSV_VALUES.values()], "label": ["1"] * len(CSV_VALUES)}


def test_csv_of_any_platform_reads_the_same(tmp_path):
    for i, (start, newline) in enumerate(product([b"", b"\xef\xbb\xbf"], ["\n", "\r\n", "\r"])):
        path = tmp_path / f"rows-{i}.csv"
        path.write_bytes(start + newline.join(["text,label", "a,1", "b,0"]).encode())
        assert read_rows(path)[:] == {"text": ["a", "b"], "label": ["1", "0"]}, (start, newline)


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl"])
def test_a_file_is_read_once_and_not_again_until_it_changes(tmp_path, monkeypatch, name):
    path = tmp_path / name
    write_as(path, ROWS)
    opened: list[str] = []
    kept = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: opened.append(self.name) or kept(self, *a, **k))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("read by another reader, too"))
    for _ in range(2):
        assert read_rows(path)[:] == ROWS
    assert opened.count(name) == 1
    os.utime(path, (0, 0))
    assert read_rows(path)[:] == ROWS
    assert opened.count(name) == 2


def test_a_text_that_looks_like_a_date_stays_a_text(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"text": "2020-01-01", "label": 0}])
    assert read_rows(path)[:] == {"text": ["2020-01-01"], "label": [0]}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("no.csv", None, ["no such file", "the folder the command runs in"]),
        ("no.csv", b"", ["the file is empty"]),
        ("no.csv", b"text,label\n", ["a header but no rows"]),
        ("no.csv", b"text,text\na,b\n", ["column names repeat in the header: text, text"]),
        ("no.csv", b"text,label\na,1\nb,0,x\n", ["row 2 (line 3)", "3 values for 2 columns", "quote"]),
        ("no.csv", b'text,label\n"a\nb",1\nc\n', ["row 2 (line 4)", "1 values for 2 columns"]),
        ("no.csv", b'text,label\na,1\n"b,0\nc,1\n', ["line 4"]),
        ("no.csv", b'text,label\na,1\n"Good" film,0\n', ["line 3"]),
        ("no.csv", b"text,label\ngood,1\na\0b,0\n", ["row 2 (line 3)", "NUL"]),
        ("no.tsv", b'text\tlabel\na\t1\n"Good" film\t0\n', ["line 3"]),
        ("no.tsv", b"text\tlabel\na, b\t1\nc, 0\n", ["row 2 (line 3)", "1 values for 2 columns"]),
        ("no.jsonl", b'{"a": 1}\n\n{"a": 2}\n', ["line 2: blank", "one object per line"]),
        ("no.jsonl", b'{"a": 1}\n{"a": \n', ["line 2: not JSON"]),
        ("no.jsonl", b'\xef\xbb\xbf{"a": 1}\n', ["line 1", "BOM"]),
        ("no.jsonl", b'{"a": 1}\n[1]\n', ["line 2: got list, needs one object per line"]),
        ("no.jsonl", b'{"text": "\\ud83d"}\n', ["row 1: text", "surrogate"]),
        ("no.jsonl", b"{}\n", ["line 1", "object without keys"]),
        ("no.xlsx", b"PK", ["cannot read .xlsx", "known are .csv, .tsv, .jsonl, .json, .parquet"]),
        ("no", b"PK", ["cannot read a file without an ending"]),
        ("no.parquet", b"PAR1 and then nothing", []),
    ],
)
def test_a_broken_file_is_refused_by_name_and_place(tmp_path, name, content, says):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    message = refusal(lambda: read_rows(path))
    assert message.startswith(str(path))
    for part in says:
        assert part in message


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"text\na\ncaf\xe9 au lait\n", 3),
        (b"text\na\ncaf\xe9", 3),
        (b"text\ncaf\xc3", 2),
        (b"\xff\xfet\0e\0x\0t\0\n\0", 1),
    ],
    ids=["inside", "last byte", "cut short", "UTF-16"],
)
def test_bytes_that_are_not_utf8_are_refused_with_their_line(tmp_path, content, line):
    for path in (tmp_path / "no.csv", tmp_path / "no.tsv", tmp_path / "no.jsonl"):
        path.write_bytes(content)
        message = refusal(lambda path=path: read_rows(path))
        assert message.startswith(f"{path}, line {line}: byte 0x")
        assert "iconv" in message


def test_a_parquet_file_without_rows_is_refused(tmp_path):
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array([], pyarrow.string())}), path)
    assert str(path) in refusal(lambda: read_rows(path))


def test_a_folder_that_is_not_one_split_of_arrow_files_is_refused(tmp_path):
    assert "Dataset.save_to_disk" in refusal(lambda: read_rows(tmp_path))
    rows = datasets.Dataset.from_dict(ROWS)
    datasets.DatasetDict(train=rows, test=rows).save_to_disk(tmp_path)
    message = refusal(lambda: read_rows(tmp_path))
    assert message.endswith(f"several splits (train, test); name one: {tmp_path / 'train'}")


def test_a_hub_set_that_cannot_be_reached_points_to_local_files():
    message = refusal(lambda: read_hub("nobody/nothing", None, None))
    assert "'nobody/nothing'" in message
    assert "train_file" in message
