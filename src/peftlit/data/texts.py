"""Read texts to be answered, one after the other, from files of any size or from standard input."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow.parquet

from peftlit.data.checks import check_columns
from peftlit.errors import DataError

STANDARD_INPUT = "-"
_ENDINGS = (".txt", ".csv", ".tsv", ".jsonl", ".parquet")


def stream_texts(file: str, text_column: str, text_pair_column: str | None) -> Iterator[str | tuple[str, str]]:
    """Return an iterator over a file's texts in order, which never holds the whole file.

    Args:
        file: A ``.txt`` file with a text per line, a ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet`` file, or ``-``
            for standard input with a text per line.
        text_column: Column with the text; not used for plain lines.
        text_pair_column: Column with the second text of a pair.

    Raises:
        DataError: The file cannot be read, or a row holds no text; with file and row.
    """
    if file == STANDARD_INPUT:
        return _lines(sys.stdin.buffer, "standard input")
    path = Path(file)
    if not path.is_file():
        raise DataError(f"{path}: no such file; paths are taken from the folder the command runs in ({Path.cwd()})")
    ending = path.suffix.lower()
    if ending not in _ENDINGS:
        raise DataError(f"{path}: cannot read {ending or 'a file without an ending'}; known are {', '.join(_ENDINGS)}")
    if ending == ".txt":
        return _lines(path.open("rb"), str(path))
    columns = [text_column, *([text_pair_column] if text_pair_column else [])]
    return _rows(path, ending, columns)


def _lines(file: BinaryIO, source: str) -> Iterator[str]:
    with file:
        yield from (line.rstrip("\r\n") for line in _decoded(file, source))


def _rows(path: Path, ending: str, columns: list[str]) -> Iterator[str | tuple[str, str]]:
    for row, record in enumerate(_records(path, ending, columns), 1):
        texts = [_text(record, column, f"{path}, row {row}") for column in columns]
        yield texts[0] if len(texts) == 1 else (texts[0], texts[1])


def _decoded(lines: Iterable[bytes], source: str) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise DataError(
                f"{source}, line {number}: byte 0x{byte:02x} is not UTF-8; convert the file first"
            ) from error


def _records(path: Path, ending: str, columns: list[str]) -> Iterator[dict[str, Any]]:
    if ending == ".parquet":
        try:
            table = pyarrow.parquet.ParquetFile(path)
        except pyarrow.ArrowInvalid as error:
            raise DataError(f"{path}: {str(error).splitlines()[0]}") from error
        check_columns(table.schema_arrow.names, columns, str(path))
        for batch in table.iter_batches(columns=columns):
            yield from batch.to_pylist()
        return
    with path.open("rb") as file:
        lines = _decoded(file, str(path))
        if ending == ".jsonl":
            for number, line in enumerate(lines, 1):
                yield _json_object(line, f"{path}, line {number}")
            return
        csv.field_size_limit(max(csv.field_size_limit(), path.stat().st_size))
        reader = csv.DictReader(lines, delimiter="\t" if ending == ".tsv" else ",", strict=True)
        try:
            check_columns(list(reader.fieldnames or []), columns, str(path))
            yield from reader
        except csv.Error as error:
            raise DataError(
                f"{path}, line {reader.reader.line_num}: {error}; quote the whole text, double the quotes in it"
            ) from error


def _json_object(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON ({error.msg}); one object per line") from error
    if not isinstance(record, dict):
        raise DataError(f"{where}: got {type(record).__name__}, needs one object per line")
    return record


def _text(record: dict[str, Any], column: str, where: str) -> str:
    if column not in record:
        raise DataError(
            f"{where}: no {column!r}, only {', '.join(map(str, record))}; name the column: --text_column NAME"
        )
    text = record[column]
    if not isinstance(text, str):
        raise DataError(f"{where}: {column} is {text!r}, needs a text")
    return text
