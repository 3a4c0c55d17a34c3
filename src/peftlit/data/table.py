"""Rows as Arrow files, written and read a few at a time, so that they are never all in memory."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow

from peftlit.data.cache import private_file
from peftlit.errors import DataError
from peftlit.files import disk_problem

AT_ONCE = 1000
"""Rows that are written or read at once."""

_JSON = pyarrow.json_()


def make_rows(columns: Mapping[str, Iterable[Any]]) -> datasets.Dataset:
    """Put columns together into rows, mapped from a file that lasts as long as this process.

    Their values are taken one row after the other.
    """
    rows, file = zip(*columns.values(), strict=True), private_file()

    def parts() -> Iterator[dict[str, list[Any]]]:
        part = list(islice(rows, AT_ONCE))
        yield {name: [row[i] for row in part] for i, name in enumerate(columns)}  # there may be no rows
        while part := list(islice(rows, AT_ONCE)):
            yield {name: [row[i] for row in part] for i, name in enumerate(columns)}

    write_rows(file, parts())
    return map_rows(file)


def write_rows(file: Path, parts: Iterable[Mapping[str, list[Any]]]) -> None:
    """Write rows to an Arrow file, which takes its name when it is whole.

    A column's type widens to fit all its values, and a column that a part lacks is empty there. Values that share no
    type, such as numbers and texts, are kept as ``datasets.Json``.
    """
    aside, narrow = (file.with_name(f"tmp{uuid.uuid4().hex}") for _ in range(2))
    types: dict[str, pyarrow.DataType] = {}
    try:
        with narrow.open("wb") as stream:  # each part with types of its own
            for part in parts:
                batch = pyarrow.record_batch({name: _array(values) for name, values in part.items()})
                for field in batch.schema:
                    types[field.name] = _common(types.get(field.name, field.type), field.type)
                with pyarrow.ipc.new_stream(stream, batch.schema) as writer:
                    writer.write_batch(batch)
        schema = pyarrow.schema(list(types.items()))
        with narrow.open("rb") as stream, pyarrow.ipc.new_stream(str(aside), schema) as writer:
            while stream.peek(1):
                for batch in pyarrow.ipc.open_stream(stream):
                    writer.write_batch(_widened(batch, schema))
        aside.replace(file)
    except OSError as error:
        if disk_problem(error) is None:
            raise
        raise DataError(
            f"{file.parent}: rows cannot be cached ({error.strerror}); free some space, or set "
            "HF_DATASETS_CACHE to another folder"
        ) from error
    finally:
        aside.unlink(missing_ok=True)
        narrow.unlink(missing_ok=True)


def map_rows(file: Path) -> datasets.Dataset:
    """Map a file that :func:`write_rows` wrote."""
    # named at random: datasets would pickle the rows to name them after their content
    return datasets.Dataset(datasets.table.MemoryMappedTable.from_file(str(file)), fingerprint=uuid.uuid4().hex[:16])


def _array(values: list[Any], kind: pyarrow.DataType | None = None) -> pyarrow.Array:
    if kind != _JSON:
        with suppress(pyarrow.ArrowException, OverflowError):  # no type has them all
            try:
                return pyarrow.array(values, kind)
            except OverflowError:  # numbers of more than 64 bits
                return pyarrow.array([float(value) if isinstance(value, int) else value for value in values], kind)
    return pyarrow.array([None if value is None else json.dumps(value) for value in values], _JSON)


def _common(first: pyarrow.DataType, second: pyarrow.DataType) -> pyarrow.DataType:
    """Return the type that has the values of both."""
    if _JSON in (first, second):
        return _JSON
    try:
        schemas = [pyarrow.schema([("", kind)]) for kind in (first, second)]
        return pyarrow.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pyarrow.ArrowException:
        return _JSON


def _widened(batch: pyarrow.RecordBatch, schema: pyarrow.Schema) -> pyarrow.RecordBatch:
    """Return a batch with the columns of a schema; one whose type differs is made again from its values."""
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    arrays = [columns.get(name, pyarrow.nulls(len(batch))) for name in schema.names]
    wide = [
        array if array.type == kind else _array(array.to_pylist(), kind)
        for array, kind in zip(arrays, schema.types, strict=True)
    ]
    return pyarrow.record_batch(wide, schema=schema)


def column_values(rows: datasets.Dataset, column: str, source: str) -> Iterator[Any]:
    """Yield a column's values; one that is not UTF-8 shows only now, and is refused with its row."""
    values = rows[column]
    for start in range(0, len(rows), AT_ONCE):
        try:
            part = values[start : start + AT_ONCE]
        except UnicodeDecodeError:
            for row in range(start, len(rows)):
                try:
                    values[row]
                except UnicodeDecodeError as error:
                    raise DataError(f"{source}, row {row + 1}: {column} holds bytes that are not UTF-8") from error
            raise
        yield from part
