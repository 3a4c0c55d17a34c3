"""``predictions.csv``: one line per row of the test split, in its order, with a probability for every label."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from peftlit import distributed
from peftlit.files import write_text
from peftlit.modules.problems import Problem


class Predictions(Callback):
    """Collect what ``test_step`` returns on all ranks and write it as CSV."""

    def __init__(self, path: Path, problem: Problem) -> None:
        self.path = path
        self.problem = problem
        self._parts: list[dict[str, torch.Tensor]] = []

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget earlier results."""
        self._parts = []

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Keep a batch's ``row``, ``labels`` and ``answers``."""
        self._parts.append({name: value.cpu() for name, value in outputs.items()})

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather and write."""
        parts = distributed.gather(self._parts)
        if trainer.is_global_zero:
            self._write(parts)
        self._parts = []

    def _write(self, parts: list[dict[str, torch.Tensor]]) -> None:
        joined = {name: torch.cat([part[name] for part in parts]) for name in ("row", "labels", "answers")}
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["row", *self.problem.columns()])
        for i in joined["row"].argsort().tolist():
            writer.writerow([int(joined["row"][i]), *self.problem.to_csv(joined["answers"][i], joined["labels"][i])])
        write_text(self.path, text.getvalue())
