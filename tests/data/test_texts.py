from __future__ import annotations

import io
import json
import sys
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest

from peftlit.data.texts import stream_texts
from peftlit.errors import DataError

TEXTS = ["good", 'a "quoted", long\nline', "ünïcode", ""]


def read(file, column="text", pair=None):
    return list(stream_texts(str(file), column, pair))


def test_every_format_gives_the_same_texts(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": t, "other": "x"}) + "\n" for t in TEXTS))
    quoted = "".join('"{}",x\r\n'.format(t.replace('"', '""')) for t in TEXTS)
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf" + f"text,other\r\n{quoted}".encode())
    pyarrow.parquet.write_table(pyarrow.table({"other": ["x"] * 4, "text": TEXTS}), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.csv", "a.parquet"):
        assert read(tmp_path / name) == TEXTS, name
        assert read(tmp_path / name, "text", "other") == [(t, "x") for t in TEXTS], name


def test_plain_lines_from_a_file_and_from_standard_input(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_bytes("good\r\n\nünïcode".encode())
    assert read(tmp_path / "a.txt") == ["good", "", "ünïcode"]
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"one\ntwo\n")))
    assert read("-") == ["one", "two"]


def test_a_file_is_not_read_ahead(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\nnot json\n')
    texts = stream_texts(str(tmp_path / "a.jsonl"), "text", None)
    assert next(texts) == "good"
    with pytest.raises(DataError, match="a.jsonl, line 2: not JSON"):
        next(texts)


def test_bytes_that_are_no_text_are_named_by_row_in_parquet_too(tmp_path):
    texts = pyarrow.array([*[b"good"] * 1030, b"caf\xe9", b"good"]).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "a.parquet")
    with pytest.raises(DataError) as caught:
        read(tmp_path / "a.parquet")
    assert str(caught.value) == f"{tmp_path}/a.parquet, row 1031: a text holds bytes that are not UTF-8"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"txt,label\ngood,1\n", "a.csv, row 1: no column 'text'; did you mean 'txt'"),
        ("a.csv", b'text\n"open\n', "a.csv, line 2: unexpected end of data; quote the whole text"),
        ("a.jsonl", b'{"txt": "good"}\n', "row 1: no column 'text'; did you mean 'txt'"),
        ("a.jsonl", b'{"text": 3}\n', "row 1: text is 3, needs a text"),
        ("a.jsonl", b"[1]\n", "line 1: got list, needs one object per line"),
        ("a.txt", b"good\ncaf\xe9\n", "line 2: byte 0xe9 is not UTF-8"),
        ("a.parquet", b"no", "a.parquet: "),
        ("a.docx", b"", "cannot read .docx; known are .csv"),
    ],
)
def test_bad_input_is_named(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        read(tmp_path / name)


def test_a_missing_file_is_told_at_once(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        stream_texts(str(tmp_path / "none.csv"), "text", None)
