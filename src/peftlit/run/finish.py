"""The end of a fit: best weights, export, ``metrics.json``, curves, test split, and last the reload check."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

from lightning import Trainer

from peftlit.backbone.hardware import peak_mib
from peftlit.checkpoint.format import AdapterCheckpointIO
from peftlit.data import TokenDataModule
from peftlit.errors import ReloadError
from peftlit.export.reload_check import check_reload
from peftlit.export.write import export, trainable_sha256, weights_sha256
from peftlit.files import write_json
from peftlit.modules import PeftModule
from peftlit.plugins.throughput import throughput_of
from peftlit.run import plots
from peftlit.run.answers import Answers
from peftlit.run.evaluation import finish_evaluation
from peftlit.run.folder import RunFolder
from peftlit.run.history import History, monitored_checkpoint
from peftlit.run.thresholds import tune_thresholds

log = logging.getLogger(__name__)


def finish_fit(
    trainer: Trainer, module: PeftModule, data: TokenDataModule, folder: RunFolder, history: History, seconds: float
) -> None:
    """Export and score the best weights of a fit that took ``seconds``, then check that the export reloads.

    The check comes last, so that nothing is lost where it fails.

    Raises:
        ReloadError: The check failed, on all ranks alike.
    """
    best_step = _restore_best(trainer, module)
    module.to(trainer.strategy.root_device)  # Lightning has moved it to the CPU
    thresholds = tune_thresholds(module, data)
    if trainer.is_global_zero:
        state = history.trainer_state(trainer, folder.path, best_step, data.batch_size)
        export(module, data.get_tokenizer(), folder.adapter, state)
        metrics = {
            "step": best_step,
            "adapter_sha256": weights_sha256(folder.adapter),
            "trainable_sha256": trainable_sha256(module),
            "reload_logit_difference": None,
            "reload_drift": None,
            "fit": _fit_numbers(trainer, seconds),
            "validation": history.evaluation_at(best_step),
            **({"thresholds": thresholds} if thresholds else {}),
            "test": None,
        }
        write_json(folder.metrics, metrics)
        plots.learning_curves(history.log_history, folder.path / "learning_curves.png", best_step, module.curve)
    trainer.strategy.barrier()
    if "test" in data.read() and trainer.limit_test_batches != 0:
        trainer.test(module, datamodule=data, verbose=False)
        finish_evaluation(trainer, module, data, folder, "test")
    answers = next((c for c in trainer.callbacks if isinstance(c, Answers)), None)  # type: ignore[attr-defined]
    if answers is not None and trainer.is_global_zero:
        module.to(trainer.strategy.root_device)
        answers.finish(module, data, folder)
    failure = None
    if trainer.is_global_zero:
        failure = _check_reload(trainer, module, data, folder)
        written = [path.name for path in (folder.metrics, folder.predictions) if path.is_file()]
        log.info("run folder: %s (adapter/, %s, pictures)", folder.path, ", ".join(written))
    failure = trainer.strategy.broadcast(failure)
    if failure is not None:
        raise failure


def _restore_best(trainer: Trainer, module: PeftModule) -> int:
    """Load the best checkpoint, where a metric is monitored; return the optimizer step of the module's weights."""
    callback = monitored_checkpoint(trainer)
    if callback is None or not callback.best_model_path:
        return trainer.global_step
    checkpoint = AdapterCheckpointIO().load_checkpoint(callback.best_model_path)
    module.on_load_checkpoint(checkpoint)  # refuses one that does not hold exactly what trains
    module.load_state_dict(checkpoint["state_dict"], strict=False)
    step = int(checkpoint["global_step"])
    log.info("best %s %.4f at step %d", callback.monitor, float(callback.best_model_score or 0), step)
    return step


def _fit_numbers(trainer: Trainer, seconds: float) -> dict[str, Any]:
    throughput = throughput_of(trainer)
    return {
        "seconds": round(seconds, 2),
        **(throughput.summary() if throughput else {}),
        "peak_memory_mib": round(peak_mib(), 1),
        "precision": str(trainer.precision),
        "skipped_steps": getattr(trainer.precision_plugin, "skipped_steps", 0),
    }


def _check_reload(trainer: Trainer, module: PeftModule, data: TokenDataModule, folder: RunFolder) -> ReloadError | None:
    """Check the export and note the difference in ``metrics.json``; return the failure, for all ranks to raise."""
    device = trainer.strategy.root_device
    try:
        found = check_reload(module, data.get_tokenizer(), data.probe(), folder.adapter, device)
    except ReloadError as error:
        return error
    drift = None if found.drift is None else asdict(found.drift)
    folder.update_metrics({"reload_logit_difference": found.difference, "reload_drift": drift})
    return None
