"""The history of a run, in the shape of Hugging Face's ``trainer_state.json``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from peftlit.backbone.hardware import widest_float
from peftlit.modules.accumulation import at_step_boundary
from peftlit.modules.metrics import plain
from peftlit.modules.optim import learning_rate


class History(Callback):
    """Collect loss, learning rate and every evaluation with the optimizer step they belong to."""

    def __init__(self) -> None:
        self.log_history: list[dict[str, Any]] = []
        self._loss_sum: Any = 0.0  # a tensor on the device, once there is a loss
        self._num_losses = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the mean loss and the learning rate every ``log_every_n_steps`` optimizer steps."""
        if not at_step_boundary(trainer):
            return
        step, metrics = trainer.global_step, trainer.callback_metrics
        if "train/loss" in metrics:
            self._loss_sum = self._loss_sum + metrics["train/loss"].to(widest_float())
            self._num_losses += 1
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by a connector
        if not every or step % every or not self._num_losses:
            return
        loss = float(self._loss_sum) / self._num_losses
        self._loss_sum, self._num_losses = 0.0, 0
        self.log_history.append(
            {
                "epoch": round(trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches, 4),
                "learning_rate": learning_rate(trainer.optimizers[0]),
                "loss": plain(loss),
                "step": step,
            }
        )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the metrics of a validation as ``eval_<name>``."""
        if trainer.sanity_checking or not trainer.training and trainer.state.fn != "fit":
            return
        values = {k: plain(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        if values:
            entry = {f"eval_{k.removeprefix('val/')}": v for k, v in values.items()}
            batches = trainer.fit_loop.epoch_loop.batch_progress.current.ready
            epoch = round(trainer.current_epoch + batches / trainer.num_training_batches, 4)
            self.log_history.append({"epoch": epoch, **entry, "step": trainer.global_step})

    def evaluation_at(self, step: int) -> dict[str, float] | None:
        """Return the metrics of the validation at an optimizer step, None if there was none."""
        for entry in reversed(self.log_history):
            if entry["step"] == step and "eval_loss" in entry:
                return {k.removeprefix("eval_"): v for k, v in entry.items() if k.startswith("eval_")}
        return None

    def trainer_state(self, trainer: Trainer, folder: Path, best_step: int, batch_size: int | None) -> dict[str, Any]:
        """Return the content of ``trainer_state.json``; the path in it is relative to the run folder."""
        checkpoint, steps = monitored_checkpoint(trainer), trainer.estimated_stepping_batches
        score = checkpoint.best_model_score if checkpoint else None
        best = checkpoint.best_model_path if checkpoint else None
        return {
            "best_global_step": best_step,
            "best_metric": plain(score) if score is not None else None,
            "best_model_checkpoint": os.path.relpath(best, folder) if best else best,
            "epoch": float(trainer.current_epoch),
            "global_step": trainer.global_step,
            "is_world_process_zero": trainer.is_global_zero,
            "log_history": self.log_history,
            "logging_steps": trainer.log_every_n_steps,  # type: ignore[attr-defined]
            "max_steps": -1 if steps == float("inf") else int(steps),
            "num_train_epochs": trainer.max_epochs,
            "train_batch_size": batch_size,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the history so far, for checkpoints."""
        sums = {"loss_sum": float(self._loss_sum), "num_losses": self._num_losses}
        return {"log_history": self.log_history, **sums}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the history; older checkpoints hold a list of losses instead of their sum."""
        self.log_history, losses = state_dict["log_history"], state_dict.get("losses", [])
        self._loss_sum = state_dict.get("loss_sum", sum(losses))
        self._num_losses = state_dict.get("num_losses", len(losses))


def monitored_checkpoint(trainer: Trainer) -> ModelCheckpoint | None:
    """Return the checkpoint callback that keeps the best weights, None where nothing is monitored."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor is not None:
            return callback
    return None
