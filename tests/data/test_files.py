from __future__ import annotations

import os
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from peftlit.data.files import iterate_rows, read_hub, read_rows
from peftlit.errors import DataError
from tests.data.helpers import refusal, write_jsonl

TEXTS = ["a good film", "naïve, and “long”", "NA"]
ROWS = {"text": TEXTS, "label": ["pos", "neg", "null"]}


def _as_csv(path: Path) -> None:
    path.write_text('text,label\na good film,pos\n"naïve, and “long”",neg\nNA,null\n', encoding="utf-8")


def _as_tsv(path: Path) -> None:
    lines = zip(["text", *TEXTS], ["label", *ROWS["label"]], strict=True)
    path.write_text("".join(f"{text}\t{label}\n" for text, label in lines), encoding="utf-8")


def _as_jsonl(path: Path) -> None:
    write_jsonl(path, [{"text": t, "label": n} for t, n in zip(TEXTS, ROWS["label"], strict=True)])


def _as_arrow(path: Path) -> None:
    datasets.Dataset.from_dict(ROWS).save_to_disk(path)


def _as_parquet(path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table(ROWS), path)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("rows.csv", _as_csv),
        ("ROWS.CSV", _as_csv),
        ("rows.tsv", _as_tsv),
        ("rows.jsonl", _as_jsonl),
        ("rows.json", _as_jsonl),
        ("rows.parquet", _as_parquet),
        ("arrow", _as_arrow),
    ],
)
def test_every_format_gives_the_same_rows_memory_mapped(tmp_path, name, write):
    write(tmp_path / name)
    rows = read_rows(str(tmp_path / name))
    assert rows[:] == ROWS
    assert rows.cache_files, "held in memory instead of mapped from disk"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        pytest.param('"a, b"', "a, b", id="quoted comma"),
        pytest.param('"a\nb"', "a\nb", id="quoted newline"),
        pytest.param('"a\r\nb"', "a\r\nb", id="quoted windows newline"),
        pytest.param('"say ""hi"""', 'say "hi"', id="doubled quotes"),
        pytest.param('5" disk', '5" disk', id="quote inside"),
        pytest.param("NA", "NA", id="NA"),
        pytest.param("nan", "nan", id="nan"),
        pytest.param("", "", id="empty"),
        pytest.param("007", "007", id="leading zeros"),
        pytest.param("1e5", "1e5", id="number"),
        pytest.param("  a  ", "  a  ", id="outer spaces"),
        pytest.param("x" * 200_000, "x" * 200_000, id="long text"),
    ],
)
@pytest.mark.parametrize(("ending", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_csv_values_stay_text_exactly_as_written(tmp_path, ending, delimiter, written, read):
    path = tmp_path / f"rows.{ending}"
    path.write_bytes(f"text{delimiter}label\n{written}{delimiter}1\nlast{delimiter}0\n".encode())
    assert read_rows(path)[:] == {"text": [read, "last"], "label": ["1", "0"]}


@pytest.mark.parametrize("reader", [read_rows, lambda path: list(iterate_rows(path))])
def test_a_nul_in_a_csv_is_refused_where_readers_would_not_agree_on_the_text(tmp_path, reader):
    path = tmp_path / "rows.csv"
    path.write_bytes(b"text,label\ngood,1\na\0b,0\n")
    with pytest.raises(DataError, match=r"rows\.csv.*line 3.*NUL"):
        reader(path)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"], ids=["plain", "BOM"])
def test_csv_of_any_platform_reads_the_same(tmp_path, newline, start):
    path = tmp_path / "rows.csv"
    path.write_bytes(start + newline.join(["text,label", "a,1", "b,0"]).encode())
    assert read_rows(path)[:] == {"text": ["a", "b"], "label": ["1", "0"]}


def test_an_edited_file_is_read_again(tmp_path):
    path = tmp_path / "rows.csv"
    for number, text in enumerate(("old", "new")):
        path.write_text(f"text,label\n{text},1\n", encoding="utf-8")
        os.utime(path, (number, number))
        assert read_rows(path)["text"][:] == [text]


@pytest.mark.parametrize("write", [_as_csv, _as_jsonl])
def test_a_file_is_read_once_and_not_again_until_it_changes(tmp_path, monkeypatch, write):
    path = tmp_path / ("rows.csv" if write is _as_csv else "rows.jsonl")
    write(path)
    opened: list[str] = []
    kept = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: opened.append(self.name) or kept(self, *a, **k))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("read by another reader, too"))
    for _ in range(2):
        assert read_rows(path)[:] == ROWS
    assert opened.count(path.name) == 1


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


@pytest.mark.parametrize("name", ["no.csv", "no.tsv", "no.jsonl"])
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
def test_bytes_that_are_not_utf8_are_refused_with_their_line(tmp_path, name, content, line):
    path = tmp_path / name
    path.write_bytes(content)
    message = refusal(lambda: read_rows(path))
    assert f"{path}, line {line}: byte 0x" in message
    assert "iconv" in message


def test_a_parquet_file_without_rows_is_refused(tmp_path):
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array([], pyarrow.string())}), path)
    assert str(path) in refusal(lambda: read_rows(path))


def test_a_folder_that_is_not_arrow_is_refused(tmp_path):
    assert "Dataset.save_to_disk" in refusal(lambda: read_rows(tmp_path))


def test_a_folder_of_several_splits_is_refused_with_the_one_to_name(tmp_path):
    splits = {"train": datasets.Dataset.from_dict(ROWS), "test": datasets.Dataset.from_dict(ROWS)}
    datasets.DatasetDict(splits).save_to_disk(tmp_path)
    message = refusal(lambda: read_rows(tmp_path))
    assert "several splits (train, test)" in message
    assert str(tmp_path / "train") in message


def test_a_hub_set_that_cannot_be_reached_points_to_local_files():
    message = refusal(lambda: read_hub("nobody/nothing", None, None))
    assert "'nobody/nothing'" in message
    assert "train_file" in message
