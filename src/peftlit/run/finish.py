"""What happens after training: best weights, export, numbers, pictures, the test split, and last the reload check."""

from __future__ import annotations

import csv
import logging
from typing import Any

from lightning import Callback, LightningModule, Trainer

from peftlit.backbone.hardware import peak_mib
from peftlit.checkpoint.format import AdapterCheckpointIO
from peftlit.data import TokenDataModule
from peftlit.errors import ReloadError, RunFolderError
from peftlit.export.base_record import check_base_weights
from peftlit.export.reload_check import check_reload
from peftlit.export.write import METRICS_FILE, export, load_export, reading, trainable_sha256, weights_sha256
from peftlit.files import read_record, write_json
from peftlit.modules import PeftModule
from peftlit.modules.metrics import HEADLINES, Average, plain
from peftlit.modules.problems import MultiLabel, Problem
from peftlit.plugins.throughput import throughput_of
from peftlit.run import plots
from peftlit.run.folder import PREDICTIONS_FILE, RunFolder
from peftlit.run.history import History, monitored_checkpoint
from peftlit.run.thresholds import tune_thresholds

log = logging.getLogger(__name__)


def finish_fit(
    trainer: Trainer,
    module: PeftModule,
    data: TokenDataModule,
    folder: RunFolder,
    history: History,
    seconds: float,
) -> None:
    """Restore the best weights, export them, draw the curves, score the test split; then check that the export loads.

    The check comes last, so that nothing is lost where it fails.

    Args:
        trainer: The trainer, after ``fit``.
        module: The module.
        data: The data module.
        folder: The run folder.
        history: What was logged during training.
        seconds: Duration of the fit.

    Raises:
        ReloadError: The check failed, on all ranks alike.
    """
    best_step = _restore_best(trainer, module)
    module.to(trainer.strategy.root_device)  # Lightning has moved it to the CPU
    thresholds = tune_thresholds(trainer, module, data)
    if trainer.is_global_zero:
        state = history.trainer_state(trainer, folder.path, best_step, data.batch_size)
        throughput = throughput_of(trainer)
        export(module, data.get_tokenizer(), folder.adapter, state)
        write_json(
            folder.path / METRICS_FILE,
            {
                "step": best_step,
                "adapter_sha256": weights_sha256(folder.adapter),
                "trainable_sha256": trainable_sha256(module),
                "reload_logit_difference": None,
                "fit": {
                    "seconds": round(seconds, 2),
                    **(throughput.summary() if throughput else {}),
                    "peak_memory_mib": round(peak_mib(), 1),
                    "precision": str(trainer.precision),
                    "skipped_steps": getattr(trainer.precision_plugin, "skipped_steps", 0),
                },
                "validation": history.evaluation_at(best_step),
                **({"thresholds": thresholds} if thresholds else {}),
                "test": None,
            },
        )
        plots.learning_curves(history.log_history, folder.path / "learning_curves.png", best_step, module.curve)
    trainer.strategy.barrier()
    if "test" in data.read() and trainer.limit_test_batches != 0:
        trainer.test(module, datamodule=data, verbose=False)
        finish_evaluation(trainer, module, data, folder, "test")
    failure = None
    if trainer.is_global_zero:
        failure = _check(trainer, module, data, folder)
        written = [name for name in (METRICS_FILE, PREDICTIONS_FILE) if (folder.path / name).is_file()]
        log.info("run folder: %s (adapter/, %s, pictures)", folder.path, ", ".join(written))
    failure = trainer.strategy.broadcast(failure)
    if failure is not None:
        raise failure


def _check(trainer: Trainer, module: PeftModule, data: TokenDataModule, folder: RunFolder) -> ReloadError | None:
    """Check the export and note the difference in ``metrics.json``; return what is wrong, for all ranks to raise."""
    device = trainer.strategy.root_device
    try:
        difference = check_reload(module, data.get_tokenizer(), data.probe(), folder.adapter, device)
    except ReloadError as error:
        return error
    write_json(folder.path / METRICS_FILE, {**(read_metrics(folder) or {}), "reload_logit_difference": difference})
    return None


def finish_evaluation(
    trainer: Trainer, module: PeftModule, data: TokenDataModule, folder: RunFolder, split: str
) -> None:
    """Write an evaluation's numbers into ``metrics.json`` and its confusion matrix as a picture.

    Args:
        trainer: The trainer, after ``validate`` or ``test``.
        module: The module.
        data: The data module.
        folder: The run folder.
        split: ``validation`` or ``test``.
    """
    if not trainer.is_global_zero:
        return
    prefix = "val/" if split == "validation" else "test/"
    scalars = {k.removeprefix(prefix): plain(v) for k, v in trainer.callback_metrics.items() if k.startswith(prefix)}
    if not scalars:
        log.warning("%s: no batch was scored, and nothing is written", split)
        return
    numbers: dict[str, Any] = {"rows": data.rows_scored(split), **scalars, **module.evaluation_extras}
    recorded = read_metrics(folder) or {"adapter_sha256": weights_sha256(folder.adapter)}
    write_json(folder.path / METRICS_FILE, {**recorded, split: numbers})
    if module.problem is not None and split == "test":
        _draw(module.problem, module.average, folder, numbers)
    shown = "  ".join(f"{name} {scalars[name]:.4f}" for name in HEADLINES if name in scalars)
    log.info("%s (%d rows): %s", split, numbers["rows"], shown)


def _draw(problem: Problem, average: Average, folder: RunFolder, numbers: dict[str, Any]) -> None:
    """Draw the confusion matrix, or, where the answers are numbers, the predicted ones over the true ones."""
    title = f"test: {numbers['rows']:,} rows, "
    if "confusion_matrix" in numbers:
        title += f"F1 ({average}) {numbers['f1']:.3f}"
        draw = plots.label_counts if isinstance(problem, MultiLabel) else plots.confusion_matrix
        draw(numbers["confusion_matrix"], problem.label_names, folder.path / "confusion_matrix.png", title)
        return
    with (folder.path / PREDICTIONS_FILE).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    labels, predictions = ([float(row[name]) for row in rows] for name in ("label", "prediction"))
    title += f"Pearson {numbers['pearson']:.3f}"
    plots.predicted_values(labels, predictions, folder.path / "predicted_values.png", title)


def read_metrics(folder: RunFolder) -> dict[str, Any] | None:
    """Return what ``metrics.json`` holds, None where there is none.

    Args:
        folder: The run folder.
    """
    path = folder.path / METRICS_FILE
    return read_record(path, RunFolderError) if path.is_file() else None


class UseExport(Callback):
    """Put the weights of ``RUN/adapter`` into the module before an evaluation.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def _load(self, module: LightningModule) -> None:
        if isinstance(module, PeftModule):
            load_export(module, self.folder.adapter)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse another base before its weights load."""
        if isinstance(pl_module, PeftModule):
            with reading(self.folder.adapter):
                check_base_weights(self.folder.adapter, pl_module.backbone)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load.

        Args:
            trainer: The trainer.
            pl_module: The module.
        """
        self._load(pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load.

        Args:
            trainer: The trainer.
            pl_module: The module.
        """
        self._load(pl_module)


def _restore_best(trainer: Trainer, module: PeftModule) -> int:
    """Put the monitored checkpoint's weights back; return the optimizer step of the weights in the module."""
    callback = monitored_checkpoint(trainer)
    if callback is None or not callback.best_model_path:
        return trainer.global_step
    checkpoint = AdapterCheckpointIO().load_checkpoint(callback.best_model_path)
    module.on_load_checkpoint(checkpoint)  # refuses one that does not hold exactly what trains
    module.load_state_dict(checkpoint["state_dict"], strict=False)
    log.info(
        "best %s %.4f at step %d",
        callback.monitor,
        float(callback.best_model_score or 0),
        checkpoint["global_step"],
    )
    return int(checkpoint["global_step"])
