"""Short ways to write files, to build data modules over them, and to read a refusal."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from peftlit.data import TextFiles
from peftlit.errors import DataError, PeftlitError

Row = Mapping[str, Any]
WHOLE: dict[str, Any] = {"validation_share": 0.0, "test_share": 0.0}
"""Settings that cut nothing from train."""


def write_jsonl(path: Path, rows: Iterable[Row]) -> str:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def text_files(folder: Path, rows: Iterable[Row], test: Iterable[Row] | None = None, **settings: Any) -> TextFiles:
    """Write ``train.jsonl`` and, if given, ``test.jsonl``, and return a module that reads them uncut."""
    train = write_jsonl(folder / "train.jsonl", rows)
    test_file = None if test is None else write_jsonl(folder / "test.jsonl", test)
    return TextFiles(train_file=train, test_file=test_file, **{**WHOLE, **settings})


def labelled(labels: Iterable[Any]) -> list[dict[str, Any]]:
    """Return one row per label, texts all distinct."""
    return [{"text": f"good film {number}", "label": label} for number, label in enumerate(labels, 1)]


def refusal(action: Callable[[], object], kind: type[PeftlitError] = DataError) -> str:
    """Return the one-line message of the error that an action must end in."""
    refused: PeftlitError | None = None
    try:
        action()
    except PeftlitError as error:
        refused = error
    assert refused is not None, "this had to be refused"
    assert isinstance(refused, kind), f"{type(refused).__name__} came first: {refused}"
    assert "\n" not in str(refused), f"more than one line: {refused}"
    return str(refused)


def first_batch(loader: DataLoader[Any]) -> Any:
    """Return a loader's first batch, or raise what it raises; its workers are ended either way."""
    batches = iter(loader)
    try:
        return next(batches)
    finally:
        if loader.num_workers:  # left to the collector, an iterator that raised waits five seconds for its workers
            batches._shutdown_workers()
