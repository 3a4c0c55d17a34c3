from __future__ import annotations

import datasets
import pytest

from peftlit.data import TextLines
from tests.data.helpers import WHOLE, refusal, write_jsonl

TEXT = b"one\ntwo two\n\n \t\nthree\n\n\nfour\nfive\n"
DOCUMENTS = {
    "line": ["one", "two two", "three", "four", "five"],
    "paragraph": ["one\ntwo two", "three", "four\nfive"],
    "file": ["one\ntwo two\n\n \t\nthree\n\n\nfour\nfive"],
}
every_kind = pytest.mark.parametrize("document", DOCUMENTS)


def read(path, **settings) -> list[str]:
    return TextLines(train_file=str(path), **{**WHOLE, **settings}).read()["train"]["text"][:]


@every_kind
def test_a_document_is_a_line_a_paragraph_or_the_file(tmp_path, document):
    path = tmp_path / "train.txt"
    for written, expected in (
        (TEXT, DOCUMENTS[document]),
        (TEXT.replace(b"\n", b"\r\n"), DOCUMENTS[document]),
        (b"\xef\xbb\xbf" + TEXT, DOCUMENTS[document]),
        (b"only this", ["only this"]),
        (b"only this\n", ["only this"]),
    ):
        path.write_bytes(written)
        assert read(path, document=document) == expected


@every_kind
def test_what_is_no_text_is_refused_with_file_and_line(tmp_path, document):
    path = tmp_path / "train.txt"
    cases = [(b"one\n\ncaf\xe9\n", ", line 3: byte 0xe9 is not UTF-8; convert it: iconv -f WINDOWS-1252 -t UTF-8")]
    if document != "file":
        cases += [(b"", ": no documents"), (b"\n \n\t\n", ": no documents")]
    for written, said in cases:
        path.write_bytes(written)
        assert refusal(lambda: read(path, document=document)) == f"{path}{said}"
    assert f"{tmp_path / 'no.txt'}: no such file" in refusal(lambda: read(tmp_path / "no.txt", document=document))


def test_one_document_is_too_little_to_cut_a_split_from(tmp_path):
    path = tmp_path / "train.txt"
    path.write_bytes(TEXT)
    message = refusal(TextLines(train_file=str(path), document="file", test_share=0.0).read)
    assert message == f"{path}: validation_share of 1 rows gives not one row; raise it or set 0"


def test_in_other_files_a_row_is_a_document(tmp_path):
    texts = ["one\n\ntwo", 'three, "four"', "five"]
    rows = datasets.Dataset.from_dict({"body": texts, "author": ["a", "b", "c"]})
    rows.to_json(tmp_path / "train.jsonl")
    rows.to_csv(tmp_path / "train.csv", index=False)
    rows.save_to_disk(tmp_path / "train.arrow")
    for ending in ("jsonl", "csv", "arrow"):
        assert read(tmp_path / f"train.{ending}", text_column="body", document="paragraph") == texts


def test_rows_without_a_text_are_refused_with_file_and_row(tmp_path):
    for row, said in (
        ({"texts": "one"}, ": no column 'text'; did you mean 'texts'? its columns are texts"),
        *(({"text": value}, f", row 1: text is {value!r}, needs a text") for value in (None, 3, ["one"])),
    ):
        path = write_jsonl(tmp_path / "train.jsonl", [row, row])
        assert refusal(lambda path=path: read(path)) == f"{path}{said}"
