"""Score the exported weights: load them first; then their scores go to ``metrics.json`` and into a picture."""

from __future__ import annotations

import csv
import logging
from typing import Any

from lightning import Callback, LightningModule, Trainer

from peftlit.data import TokenDataModule
from peftlit.export.records import check_base_weights
from peftlit.export.write import load_export, reading
from peftlit.modules import PeftModule
from peftlit.modules.metrics import HEADLINES, plain
from peftlit.modules.problems import MultiLabel
from peftlit.run import plots
from peftlit.run.folder import RunFolder

log = logging.getLogger(__name__)


class UseExport(Callback):
    """Load ``RUN/adapter`` into the module before it is validated or tested."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse another base before its weights load."""
        if isinstance(pl_module, PeftModule):
            with reading(self.folder.adapter):
                check_base_weights(self.folder.adapter, pl_module.backbone)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load the weights."""
        if isinstance(pl_module, PeftModule):
            load_export(pl_module, self.folder.adapter)

    on_test_start = on_validation_start


def finish_evaluation(
    trainer: Trainer, module: PeftModule, data: TokenDataModule, folder: RunFolder, split: str
) -> None:
    """Write the scores of a split, ``validation`` or ``test``, to ``metrics.json``; draw those of the test split."""
    if not trainer.is_global_zero:
        return
    prefix = "val/" if split == "validation" else "test/"
    scores = {k.removeprefix(prefix): plain(v) for k, v in trainer.callback_metrics.items() if k.startswith(prefix)}
    if not scores:
        log.warning("%s: no batch was scored, and nothing is written", split)
        return
    numbers: dict[str, Any] = {"rows": data.rows_scored(split), **scores, **module.evaluation_extras}
    folder.update_metrics({split: numbers})
    if module.problem is not None and split == "test":
        _draw(module, folder, numbers)
    shown = "  ".join(f"{name} {scores[name]:.4f}" for name in HEADLINES if name in scores)
    log.info("%s (%d rows): %s", split, numbers["rows"], shown)


def _draw(module: PeftModule, folder: RunFolder, numbers: dict[str, Any]) -> None:
    """Draw the confusion matrix; for regression, predicted over true numbers."""
    assert module.problem is not None
    title = f"test: {numbers['rows']:,} rows, "
    if "confusion_matrix" in numbers:
        title += f"F1 ({module.average}) {numbers['f1']:.3f}"
        draw = plots.label_counts if isinstance(module.problem, MultiLabel) else plots.confusion_matrix
        draw(numbers["confusion_matrix"], module.problem.label_names, folder.path / "confusion_matrix.png", title)
        return
    with folder.predictions.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    labels, predictions = ([float(row[name]) for row in rows] for name in ("label", "prediction"))
    title += f"Pearson {numbers['pearson']:.3f}"
    plots.predicted_values(labels, predictions, folder.path / "predicted_values.png", title)
