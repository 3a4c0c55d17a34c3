"""Short ways to write files, to build data modules over them, and to read a refusal."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import torch
from lightning import LightningModule
from torch.utils.data import DataLoader

from peftlit.data import TextDataModule, TextFiles
from peftlit.errors import DataError, PeftlitError

Row = Mapping[str, Any]
WHOLE: dict[str, Any] = {"validation_share": 0.0, "test_share": 0.0}
"""Settings that cut nothing from train."""


def write_jsonl(path: Path, rows: Iterable[Row]) -> str:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def write_as(path: Path, columns: Mapping[str, list[Any]]) -> str:
    """Write rows in the format that a file's ending names; without one as an Arrow folder."""
    rows = datasets.Dataset.from_dict(columns)
    {
        ".csv": partial(rows.to_csv, index=False),
        ".tsv": partial(rows.to_csv, index=False, sep="\t"),
        ".jsonl": rows.to_json,
        ".json": rows.to_json,
        ".parquet": rows.to_parquet,
        "": rows.save_to_disk,
    }[path.suffix.lower()](str(path))
    return str(path)


def text_files(folder: Path, rows: Iterable[Row], test: Iterable[Row] | None = None, **settings: Any) -> TextFiles:
    """Write ``train.jsonl`` and, if given, ``test.jsonl``, and return a module that reads them uncut."""
    train = write_jsonl(folder / "train.jsonl", rows)
    test_file = None if test is None else write_jsonl(folder / "test.jsonl", test)
    return TextFiles(train_file=train, test_file=test_file, **{**WHOLE, **settings})


def labelled(labels: Iterable[Any]) -> list[dict[str, Any]]:
    """Return one row per label, texts all distinct."""
    return [{"text": f"good film {number}", "label": label} for number, label in enumerate(labels, 1)]


def own_set(**labels: Iterable[Any]) -> TextDataModule:
    """Return a data set of one's own whose splits have rows with these labels."""
    rows = {
        split: {"text": [f"good film {label}" for label in part], "label": [*part]} for split, part in labels.items()
    }
    splits = {split: datasets.Dataset.from_dict(columns) for split, columns in rows.items()}
    return type("Mine", (TextDataModule,), {"load": lambda self: splits})()


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


class Listener(LightningModule):
    """Learns nothing and remembers which rows came in which epoch, and how many were validated."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.rows: dict[int, list[list[int]]] = {}
        self.validated = 0

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        self.rows.setdefault(self.current_epoch, []).append(batch["row"].tolist())
        return self.weight * 0

    def validation_step(self, batch: Any, _: int) -> None:
        self.validated += len(batch["row"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def first_batch(loader: DataLoader[Any]) -> Any:
    """Return a loader's first batch, or raise what it raises; its workers are ended either way."""
    batches = iter(loader)
    try:
        return next(batches)
    finally:
        if loader.num_workers:  # left to the collector, an iterator that raised waits five seconds for its workers
            batches._shutdown_workers()
