"""Refuse checkpoints inside an accumulation window: they would lack the gradients so far."""

from __future__ import annotations

import math

from lightning import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint

from peftlit.errors import ConfigError


def check_windows(trainer: Trainer) -> None:
    """Refuse a Trainer that validates or saves inside a window, once it knows its number of batches.

    Raises:
        ConfigError: Naming the setting.
    """
    windows = {trainer.accumulate_grad_batches}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, GradientAccumulationScheduler):
            windows |= set(callback.scheduling.values())
    longest = max(windows)
    every, batches = trainer.val_check_batch, trainer.num_training_batches
    if longest > 1 and every is None:  # Lightning goes by the clock
        raise ConfigError(
            f"trainer.val_check_interval: a time would fall inside windows of {longest} batches "
            "(trainer.accumulate_grad_batches); give a number of batches"
        )
    across = trainer.check_val_every_n_epoch is None and every not in (None, math.inf)
    if across and batches != math.inf and any(batches % window for window in windows):
        raise ConfigError(
            f"trainer.check_val_every_n_epoch: null counts batches across epochs, and windows of {longest} "
            f"(trainer.accumulate_grad_batches) do not fill an epoch of {batches} batches; leave it out"
        )
    if every is not None and (across or every < batches) and any(every % window for window in windows):
        raise ConfigError(
            f"trainer.val_check_interval: every {every} batches falls inside a window of {longest} "
            f"(trainer.accumulate_grad_batches); use a multiple of {math.lcm(*windows)}"
        )
    for callback in trainer.checkpoint_callbacks:
        if not isinstance(callback, ModelCheckpoint):
            continue
        if longest > 1 and callback._train_time_interval is not None:
            raise ConfigError(
                "ModelCheckpoint.train_time_interval: would save inside accumulation windows; use every_n_train_steps"
            )
        if callback.save_on_exception:
            raise ConfigError(
                "ModelCheckpoint.save_on_exception: an error leaves a step half done; leave it out (signals write a "
                "checkpoint by themselves, and --ckpt_path last goes on from the last one)"
            )
