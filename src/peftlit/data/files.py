"""Read rows from CSV, TSV, JSONL, Parquet, an Arrow folder or the hub, with errors that name file and row."""

from __future__ import annotations

import csv
import json
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet

from peftlit.data.cache import cache_file, clean_cache
from peftlit.data.checks import check_text
from peftlit.data.lines import iterate_lines
from peftlit.data.table import AT_ONCE, map_rows, write_rows
from peftlit.errors import DataError


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
    iterate = _iterator(path)
    if iterate is _iterate_parquet:
        return _read_parquet(path)
    state = path.stat()
    file = cache_file(["rows", str(path.resolve()), state.st_size, state.st_mtime_ns, state.st_ctime_ns])
    if not file.exists():
        with _naming_bytes(path):
            write_rows(file, _columns(iterate(path), path))
        clean_cache()
    return map_rows(file)


def iterate_rows(path: str | Path) -> Iterator[dict[str, Any]]:
    """Read one file row by row, with the same values as :func:`read_rows` and flat memory; nothing is cached.

    Raises:
        DataError: As :func:`read_rows` does, when the reader gets there.
    """
    path = Path(path)
    iterate = _iterator(path)
    if iterate is _iterate_parquet:
        yield from iterate(path)
        return
    with _naming_bytes(path):
        yield from iterate(path)


@contextmanager
def _naming_bytes(path: Path) -> Iterator[None]:
    """Name the place of what cannot be decoded, or encoded, in a text file that is being read."""
    try:
        yield
    except (UnicodeDecodeError, DataError):
        check_encoding(path)  # bytes that are not UTF-8 come before all else
        raise
    except UnicodeEncodeError:
        for row, record in enumerate(_iterate_json(path), 1):
            for name, value in record.items():
                check_text(json.dumps({name: value}, ensure_ascii=False), name, str(path), row)
        raise


def require_file(path: Path) -> None:
    """Refuse a file that is not there, naming the folder that paths are taken from."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; paths are taken from the folder the command runs in ({Path.cwd()})")


def _iterator(path: Path) -> Callable[[Path], Iterator[dict[str, Any]]]:
    """Return what iterates over a file's rows."""
    require_file(path)
    iterators = {
        ".csv": _iterate_csv,
        ".tsv": _iterate_csv,
        ".jsonl": _iterate_json,
        ".json": _iterate_json,
        ".parquet": _iterate_parquet,
    }
    if path.suffix.lower() not in iterators:
        raise DataError(
            f"{path}: cannot read {path.suffix or 'a file without an ending'}; known are {', '.join(iterators)}"
        )
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty")
    return iterators[path.suffix.lower()]


def find_splits(folder: str | Path) -> dict[str, str]:
    """Find the files of a folder's splits: ``train``, ``validation`` and ``test``, the first ending that there is.

    Raises:
        DataError: There is no train split.
    """
    found: dict[str, str] = {}
    for split in ("train", "validation", "test"):
        for file in (Path(folder, split + ending) for ending in (".jsonl", ".csv", ".tsv", ".parquet")):
            if file.is_file():
                found.setdefault(split, str(file))
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
    deque(iterate_lines(path), maxlen=0)


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
