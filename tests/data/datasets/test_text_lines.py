from __future__ import annotations

import datasets
import pytest

from peftlit.data import TextLines
from peftlit.errors import ConfigError
from tests.data.helpers import WHOLE, refusal, write_jsonl

TEXT = b"one\ntwo two\n\n \t\nthree\n\n\nfour\nfive\n"
DOCUMENTS = {
    "line": ["one", "two two", "three", "four", "five"],
    "paragraph": ["one\ntwo two", "three", "four\nfive"],
    "file": ["one\ntwo two\n\n \t\nthree\n\n\nfour\nfive"],
}


def read(path, **settings) -> list[str]:
    return TextLines(train_file=str(path), **{**WHOLE, **settings}).read()["train"]["text"][:]


@pytest.mark.parametrize("document", DOCUMENTS)
@pytest.mark.parametrize("ending", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("front", [b"", b"\xef\xbb\xbf"], ids=["plain", "BOM"])
def test_a_document_is_a_line_a_paragraph_or_the_file(tmp_path, document, ending, front):
    path = tmp_path / "train.txt"
    path.write_bytes(front + TEXT.replace(b"\n", ending))
    assert read(path, document=document) == DOCUMENTS[document]


@pytest.mark.parametrize("document", DOCUMENTS)
@pytest.mark.parametrize("written", [b"only this", b"only this\n"])
def test_a_file_of_one_line_is_one_document(tmp_path, document, written):
    path = tmp_path / "train.txt"
    path.write_bytes(written)
    assert read(path, document=document) == ["only this"]


def test_one_document_is_too_little_to_cut_a_split_from(tmp_path):
    path = tmp_path / "train.txt"
    path.write_bytes(TEXT)
    message = refusal(TextLines(train_file=str(path), document="file", test_share=0.0).read)
    assert message == f"{path}: validation_share of 1 rows gives not one row; raise it or set 0"


@pytest.mark.parametrize("document", ["line", "paragraph"])
@pytest.mark.parametrize("written", [b"", b"\n \n\t\n"])
def test_a_file_without_text_is_refused(tmp_path, document, written):
    path = tmp_path / "train.txt"
    path.write_bytes(written)
    assert refusal(lambda: read(path, document=document)) == f"{path}: no documents"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_line_that_is_not_utf8_is_refused_with_file_and_line(tmp_path, document):
    path = tmp_path / "train.txt"
    path.write_bytes(b"one\n\ncaf\xe9\n")
    message = refusal(lambda: read(path, document=document))
    assert message.startswith(f"{path}, line 3: byte 0xe9 is not UTF-8; convert it")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    assert f"{tmp_path / 'no.txt'}: no such file" in refusal(lambda: read(tmp_path / "no.txt"))


@pytest.mark.parametrize("ending", ["jsonl", "csv", "tsv", "parquet", "arrow"])
def test_in_other_files_a_row_is_a_document(tmp_path, ending):
    texts = ["one\n\ntwo", 'three, "four"', "five"]
    rows = datasets.Dataset.from_dict({"body": texts, "author": ["a", "b", "c"]})
    path = str(tmp_path / f"train.{ending}")
    if ending == "jsonl":
        rows.to_json(path)
    elif ending == "parquet":
        rows.to_parquet(path)
    elif ending == "arrow":
        rows.save_to_disk(path)
    else:
        rows.to_csv(path, sep="\t" if ending == "tsv" else ",", index=False)
    assert read(path, text_column="body", document="paragraph") == texts


def test_a_column_that_is_not_there_is_refused_with_the_nearest(tmp_path):
    path = write_jsonl(tmp_path / "train.jsonl", [{"texts": "one"}])
    message = refusal(lambda: read(path))
    assert message == f"{path}: no column 'text'; did you mean 'texts'? its columns are texts"


@pytest.mark.parametrize("value", [None, 3, ["one"]])
def test_a_row_without_a_text_is_refused_with_file_and_row(tmp_path, value):
    path = write_jsonl(tmp_path / "train.jsonl", [{"text": value}, {"text": value}])
    assert refusal(lambda: read(path)) == f"{path}, row 1: text is {value!r}, needs a text"


def test_splits_are_those_of_the_files(tmp_path):
    files = {}
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.txt").write_text(f"{split} one\n{split} two\n", encoding="utf-8")
        files[f"{split}_file"] = str(tmp_path / f"{split}.txt")
    data = TextLines(**files)
    assert {split: rows["text"][:] for split, rows in data.read().items()} == {
        split: [f"{split} one", f"{split} two"] for split in ("train", "validation", "test")
    }
    manifest = data.manifest()
    assert manifest["cut_from_train"] is None
    assert manifest["sources"] == {split: files[f"{split}_file"] for split in data.read()}


def test_a_hub_set_is_read_by_its_splits(monkeypatch):
    def rows(name: str) -> datasets.Dataset:
        return datasets.Dataset.from_dict({"text": [f"{name} {i}" for i in range(20)]})

    asked = []
    hub = {"train": rows("train"), "validation": rows("validation"), "extra": rows("extra")}
    monkeypatch.setattr("peftlit.data.files_or_hub.read_hub", lambda *given: asked.append(given) or hub)
    data = TextLines(path="owner/set", name="small", revision="abc", test_share=0.1)
    splits = data.read()
    assert asked == [("owner/set", "small", "abc")]
    assert {name: len(part) for name, part in splits.items()} == {"train": 18, "validation": 20, "test": 2}
    assert data.sources["validation"] == "owner/set validation"
    assert data.sources["test"] == "owner/set train"


@pytest.mark.parametrize("given", [{}, {"train_file": "a.txt", "path": "owner/set"}])
def test_exactly_one_source_is_named(given):
    with pytest.raises(ConfigError) as caught:
        TextLines(**given)
    assert str(caught.value) == ("data: TextLines needs train_file (local files) or path (a hub set), one of the two")
