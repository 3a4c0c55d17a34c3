"""``predictions.csv``: one line per row of the source, in its order, with a probability for every label."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from peftlit.run.files import write_text


class Predictions(Callback):
    """Collect what ``test_step`` or ``predict_step`` returns and write it as CSV, from all ranks.

    Args:
        path: The file.
        label_names: The classes' names in the order of their ids.
    """

    def __init__(self, path: Path, label_names: Sequence[str]) -> None:
        self.path = path
        self.label_names = list(label_names)
        self._parts: list[dict[str, torch.Tensor]] = []

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget earlier results.

        Args:
            trainer: The trainer.
            pl_module: The module.
        """
        self._parts = []

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Keep a batch's results.

        Args:
            trainer: The trainer.
            pl_module: The module.
            outputs: ``row``, ``label`` and ``probabilities``.
            batch: Not used.
            batch_idx: Not used.
            dataloader_idx: Not used.
        """
        self._parts.append(outputs)

    on_predict_start = on_test_start
    on_predict_batch_end = on_test_batch_end

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather and write.

        Args:
            trainer: The trainer.
            pl_module: The module.
        """
        parts = [self._parts]
        if trainer.world_size > 1:
            parts = [[] for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(parts, self._parts)
        if trainer.is_global_zero:
            self._write([part for rank in parts for part in rank])

    on_predict_epoch_end = on_test_epoch_end

    def _write(self, parts: list[dict[str, torch.Tensor]]) -> None:
        joined = {name: torch.cat([part[name] for part in parts]) for name in ("row", "label", "probabilities")}
        names, text = self.label_names, io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["row", "label", "prediction", *(f"prob_{name}" for name in names)])
        for i in joined["row"].argsort().tolist():
            probabilities = joined["probabilities"][i]
            row, label, best = int(joined["row"][i]), int(joined["label"][i]), int(probabilities.argmax())
            writer.writerow([row, names[label], names[best], *(f"{p:.8g}" for p in probabilities.tolist())])
        write_text(self.path, text.getvalue())
