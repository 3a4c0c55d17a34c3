"""Read rows from CSV, TSV, JSONL, Parquet, an Arrow folder or the hub, with errors that name file and row."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet

from peftlit.data.cache import cache_file, clean_cache
from peftlit.data.table import AT_ONCE, map_rows, write_rows
from peftlit.errors import DataError

FORMATS = {".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".json": "json", ".parquet": "parquet"}


def read_rows(path: str | Path) -> datasets.Dataset:
    """Read one file, or one folder written by ``Dataset.save_to_disk``; memory-mapped either way.

    A file is read once: checked and written to an Arrow file, which whoever reads it unchanged is given again. CSV and
    TSV values stay text, exactly as written; nothing is taken for a missing value.

    Raises:
        DataError: The file is missing, empty, of an unknown kind, or not UTF-8.
    """
    path = Path(path)
    if path.is_dir():
        return _read_arrow(path)
    kind = _kind(path)
    if kind == "parquet":
        return _read_parquet(path)
    state = path.stat()
    file = cache_file(["rows", str(path.resolve()), state.st_size, state.st_mtime_ns, state.st_ctime_ns])
    if not file.exists():
        with _naming_bytes(path):
            write_rows(file, _columns(_iterate_csv(path) if kind == "csv" else _iterate_json(path), path))
        clean_cache()
    return map_rows(file)


def iterate_rows(path: str | Path) -> Iterator[dict[str, Any]]:
    """Read one file row by row, with the same values as :func:`read_rows` and flat memory; nothing is cached.

    Raises:
        DataError: As :func:`read_rows` does, when the reader gets there.
    """
    path = Path(path)
    kind = _kind(path)
    if kind == "parquet":
        yield from _iterate_parquet(path)
        return
    with _naming_bytes(path):
        yield from _iterate_csv(path) if kind == "csv" else _iterate_json(path)


@contextmanager
def _naming_bytes(path: Path) -> Iterator[None]:
    """Name the place of what cannot be decoded, or encoded, in a file that is being read."""
    try:
        yield
    except UnicodeDecodeError as error:
        check_encoding(path)  # raises, naming the line
        raise DataError(f"{path}: a text holds bytes that are not UTF-8") from error
    except DataError:
        check_encoding(path)  # bytes that are not UTF-8 come first
        raise
    except UnicodeEncodeError as error:
        for number, record in enumerate(_iterate_json(path), 1):
            for name, value in record.items():
                if not _is_utf8(json.dumps({name: value}, ensure_ascii=False)):
                    raise DataError(
                        f"{path}, line {number}: {name} holds half of a surrogate pair, which is no UTF-8"
                    ) from error
        raise


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def require_file(path: Path) -> None:
    """Refuse a file that is not there, naming the folder that paths are taken from."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; paths are taken from the folder the command runs in ({Path.cwd()})")


def _kind(path: Path) -> str:
    require_file(path)
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise DataError(
            f"{path}: cannot read {path.suffix or 'a file without an ending'}; known are {', '.join(FORMATS)}"
        )
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty")
    return kind


def find_splits(folder: str | Path) -> dict[str, str]:
    """Find the files of a folder's splits: ``train``, ``validation`` and ``test``, the first ending that there is.

    Raises:
        DataError: There is no train split.
    """
    found: dict[str, str] = {}
    for split in ("train", "validation", "test"):
        files = [Path(folder, split + ending) for ending in (".jsonl", ".csv", ".tsv", ".parquet")]
        there = [str(file) for file in files if file.is_file()]
        if there:
            found[split] = there[0]
    if "train" not in found:
        raise DataError(
            f"{Path(folder, 'train.jsonl')}: no such file, nor one that ends in .csv, .tsv or .parquet; "
            f"paths are taken from the folder the command runs in ({Path.cwd()})"
        )
    return found


def read_hub(path: str, name: str | None, revision: str | None, *, streaming: bool = False) -> dict[str, Any]:
    """Load all splits of a data set from the hub, or from its cache; under ``streaming`` as ``IterableDataset``.

    Raises:
        DataError: The data set cannot be reached.
    """
    try:
        return dict(datasets.load_dataset(path, name, revision=revision, streaming=streaming))
    except (OSError, ValueError) as error:
        raise DataError(
            f"data: cannot load {path!r} from the hub ({type(error).__name__}); without network give local files "
            "by data_dir or train_file"
        ) from error


def check_encoding(path: Path) -> None:
    """Read a text file through once and refuse bytes that are not UTF-8, naming the line and the byte."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise DataError(not_utf8(str(path), number, error)) from error


def not_utf8(source: str, number: int, error: UnicodeDecodeError) -> str:
    """Say which byte of which line is not UTF-8."""
    return (
        f"{source}, line {number}: byte 0x{error.object[error.start]:02x} is not UTF-8; convert it: "
        "iconv -f WINDOWS-1252 -t UTF-8"
    )


def _columns(records: Iterator[dict[str, Any]], path: Path) -> Iterator[dict[str, list[Any]]]:
    """Yield a file's columns, some rows at a time; a key that an object lacks is null."""
    names: dict[str, None] = {}
    while part := list(islice(records, AT_ONCE)):
        names |= dict.fromkeys(name for record in part for name in record)
        if not names:
            raise DataError(f"{path}, line 1: an object without keys; every row needs its columns")
        yield {name: [record.get(name) for record in part] for name in names}


def _iterate_csv(path: Path) -> Iterator[dict[str, Any]]:
    """Yield a file's records, checked."""
    csv.field_size_limit(max(csv.field_size_limit(), path.stat().st_size))
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        try:
            # a nameless column, such as the index that pandas writes, goes by its number
            header = [name or f"column_{i}" for i, name in enumerate(next(reader, []))]
            if len(set(header)) != len(header):
                raise DataError(f"{path}: column names repeat in the header: {', '.join(header)}")
            row = 0
            for row, record in enumerate(filter(None, reader), 1):
                if len(record) != len(header):
                    raise DataError(
                        f"{path}, row {row} (line {reader.line_num}): {len(record)} values for {len(header)} columns; "
                        "quote texts that hold the delimiter"
                    )
                if any("\0" in value for value in record):  # where some versions of pandas would end the text
                    raise DataError(f"{path}, row {row} (line {reader.line_num}): a value holds a NUL; take it out")
                yield dict(zip(header, record, strict=True))
        except csv.Error as error:
            raise DataError(
                f"{path}, line {reader.line_num}: {error}; quote the whole text, and double the quotes in it"
            ) from error
    if row == 0:
        raise DataError(f"{path}: a header but no rows")


def _iterate_json(path: Path) -> Iterator[dict[str, Any]]:
    """Yield a file's objects, checked."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                raise DataError(f"{path}, line {number}: blank; a JSONL file has one object per line")
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{path}, line {number}: not JSON ({error.msg}); one object per line") from error
            if not isinstance(record, dict):
                raise DataError(f"{path}, line {number}: got {type(record).__name__}, needs one object per line")
            yield record


def _iterate_parquet(path: Path) -> Iterator[dict[str, Any]]:
    row = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1000):
                for values in zip(*batch.columns, strict=True):
                    yield {name: value.as_py() for name, value in zip(batch.schema.names, values, strict=True)}
                    row += 1
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path}: {str(error).splitlines()[0]}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, row {row + 1}: a text holds bytes that are not UTF-8") from error


def _read_arrow(path: Path) -> datasets.Dataset:
    try:
        loaded = datasets.load_from_disk(str(path))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no Arrow folder; one is written by Dataset.save_to_disk") from error
    if isinstance(loaded, datasets.DatasetDict):
        raise DataError(f"{path}: holds several splits ({', '.join(loaded)}); name one: {path / next(iter(loaded))}")
    return loaded


def _read_parquet(path: Path) -> datasets.Dataset:
    try:
        return datasets.load_dataset("parquet", data_files=str(path), split="train")
    except (datasets.exceptions.DatasetGenerationError, pyarrow.ArrowInvalid) as error:
        raise DataError(f"{path}: {str(error.__cause__ or error).splitlines()[0]}") from error
