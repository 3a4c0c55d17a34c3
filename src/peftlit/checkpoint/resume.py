"""What Lightning's checkpoints lack: with it, a run that resumes ends like one that was never interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from peftlit import distributed
from peftlit.checkpoint import random_states
from peftlit.checkpoint.format import is_checkpoint
from peftlit.errors import CheckpointError

RECORD = "peftlit"
"""Key of a checkpoint under which is written which run it belongs to."""


class Resumption(Callback):
    """Save and restore what the loops, the random generators and other callbacks go by.

    - The random states of every rank are restored before the first batch: building loaders and iterators draws from
      them.
    - A checkpoint written after an epoch's last batch, or before a validation that is due, resumes *with* that
      validation; Lightning would leave it out, and with it the best weights and early stopping.
    - Restored too: that training is to stop (early stopping), the last metrics (a schedule on a plateau), and which
      checkpoint callbacks wait for the validation to save.
    - A step is saved when it has been made, or after the validation that follows it, and not inside the next window: a
      callback that was not content with a step's metric would ask again.
    - Checkpoints are numbered in the order in which they are saved, to tell the last one of a step.
    - Paths of other checkpoints are moved into the folder that the run is in now, and dropped where they are not in it.

    Args:
        record: What says which run the checkpoints belong to: JSON values, compared when a run resumes.

    Attributes:
        restored: Whether the whole checkpoint is restored and training goes on.
    """

    def __init__(self, record: dict[str, Any] | None = None) -> None:
        self.record = record or {}
        self.restored = False
        self._saved = 0
        self._loaded: dict[str, Any] | None = None
        self._stops = False

    def state_dict(self) -> dict[str, Any]:
        """Return each rank's random states; all ranks have to ask."""
        if self._loaded is not None:  # not put back yet: a validation that was due is being done first
            return {"ranks": self._loaded["ranks"]}
        return {"ranks": distributed.gather([random_states.capture()])}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states until training goes on."""
        self._loaded = {**(self._loaded or {}), **state_dict}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add what Lightning leaves out."""
        due = _validation_is_due(trainer)
        self._saved += 1
        checkpoint[RECORD] = {
            **self.record,
            "number": self._saved,
            "waits": [c.state_key for c in _model_checkpoints(trainer) if _waits(c, trainer.global_step, due)],
            "accumulate_grad_batches": trainer.accumulate_grad_batches,
            "stops": trainer.should_stop or self._stops,
            "validation_is_due": due,
            "metrics": {name: value.detach().clone() for name, value in trainer.callback_metrics.items()},
        }
        if due:
            _begin_with_validation(checkpoint["loops"]["fit_loop"])

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take what was added.

        Raises:
            CheckpointError: The best weights so far are not where they should be.
        """
        self._loaded = {**(self._loaded or {}), **checkpoint[RECORD]}
        self._saved = self._loaded.get("number", 0)  # not in checkpoints of older versions
        for callback in _model_checkpoints(trainer):
            state = checkpoint["callbacks"].get(callback.state_key)
            if state is None:
                continue
            callback._defer_save_until_validation = callback.state_key in self._loaded["waits"]
            best = state["best_model_path"]
            _move_paths(state, Path(str(callback.dirpath)))
            if callback.monitor is not None and best and not is_checkpoint(Path(state["best_model_path"])):
                raise CheckpointError(
                    f"{best}: the best weights so far are not in {callback.dirpath}; go on in the folder of the "
                    "run, with all of its checkpoints"
                )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore what was known at the end of the last evaluation.

        Raises:
            CheckpointError: Another number of processes wrote the checkpoint.
        """
        if self._loaded is None:
            return
        written_by = len(self._loaded["ranks"])
        if written_by != trainer.world_size:
            raise CheckpointError(
                f"the checkpoint was written by {written_by} processes and cannot be continued by "
                f"{trainer.world_size}; set trainer.devices: {written_by}"
            )
        # a GradientAccumulationScheduler sets it when an epoch begins, and this one has begun
        trainer.accumulate_grad_batches = self._loaded["accumulate_grad_batches"]
        trainer.callback_metrics.update(self._loaded["metrics"])
        self._stops = self._loaded["stops"]
        epochs = trainer.fit_loop.epoch_progress.current
        if epochs.processed == epochs.started:  # type: ignore[attr-defined]
            self._stop(trainer)
        elif self._stops and not self._loaded["validation_is_due"]:
            if trainer.fit_loop._can_stop_early:
                trainer.fit_loop.on_advance_end()  # the epoch that was left ends here, as it would have
            self._stop(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Restore the random states, once; from here on the last step counts as saved."""
        if self._loaded is not None:
            random_states.restore(self._loaded["ranks"][trainer.global_rank])
            self._loaded = None
        self.restored = True
        for callback in _model_checkpoints(trainer):
            callback._last_global_step_saved = trainer.global_step

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop after the validation that was due, if training was to stop before it."""
        if self._loaded is not None and not trainer.sanity_checking:
            self._stop(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End a resumed epoch like any other."""
        # Lightning leaves out the schedules that watch a metric, for it has not kept the metrics
        trainer.fit_loop._restarting = False
        self._stop(trainer)

    def _stop(self, trainer: Trainer) -> None:
        trainer.should_stop = trainer.should_stop or self._stops
        self._stops = False


def _validation_is_due(trainer: Trainer) -> bool:
    """Tell whether a batch has been trained on and the validation that follows has not been done."""
    loop = trainer.fit_loop.epoch_loop
    if trainer.sanity_checking:
        return False
    if trainer.validating:  # inside of it; at its end, its last batch is completed
        validation: Any = loop.val_loop.batch_progress
        return validation.current.completed < validation.current.processed or not validation.is_last_batch
    training: Any = loop.batch_progress
    if training.current.completed == training.current.processed:
        return False
    fetcher = trainer.fit_loop._data_fetcher
    return training.is_last_batch or (fetcher is not None and loop._should_check_val_fx(fetcher))


def _model_checkpoints(trainer: Trainer) -> list[ModelCheckpoint]:
    return [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]


def _waits(callback: ModelCheckpoint, step: int, validation_is_due: bool) -> bool:
    """Tell whether a callback saves this step after the validation, because it does not know its metric yet.

    It has noted that, unless its turn comes after that of the callback that is saving now.
    """
    every = callback._every_n_train_steps
    unsaved = every > 0 and step % every == 0 and callback._last_global_step_saved != step
    return callback._defer_save_until_validation or (callback.monitor is not None and validation_is_due and unsaved)


def _begin_with_validation(loops: dict[str, Any]) -> None:
    """Make saved progress that of a validation that has just begun, which Lightning resumes from its first batch."""
    batches = loops["epoch_loop.batch_progress"]
    for progress in (batches["total"], batches["current"]):
        progress["completed"] = progress["processed"]
    validation = loops["epoch_loop.val_loop.batch_progress"]
    done = validation["total"]["completed"]
    begun = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
    validation["current"] = begun
    validation["total"] = {name: done + count for name, count in begun.items()}
    validation["is_last_batch"] = False


def _move_paths(state: dict[str, Any], folder: Path) -> None:
    """Move the paths that a checkpoint callback remembers into the folder where it saves now."""
    before = state["dirpath"]

    def moved(path: str) -> str:
        if not (before and path) or not Path(path).is_relative_to(before):
            return ""
        inside = Path(path).relative_to(before)
        return "" if ".." in inside.parts else str(folder / inside)

    for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
        state[name] = moved(state[name])
    state["best_k_models"] = {moved(path): score for path, score in state["best_k_models"].items() if moved(path)}
    state["dirpath"] = str(folder)
