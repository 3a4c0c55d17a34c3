"""Gradient accumulation: the micro-batches of one optimizer step, on all ranks, count as one batch."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from torch import Tensor, nn

from peftlit.backbone.hardware import widest_float
from peftlit.errors import CheckpointError, ConfigError

LOSS_SCALE = "window_anchor"
"""Checkpoint key: what losses are divided by inside a window."""


class AccumulationWindow:
    """Makes the gradient of a window that of one batch: summed losses over the summed weight.

    A mean of means would weigh the rows of a short micro-batch more than those of a long one. So each micro-batch
    gives its summed loss, and at the end of the window the gradients are divided by the weight of all micro-batches on
    all ranks. Until then the loss scale keeps losses near 1, for float16; it is a power of two and rounds nothing.
    Losses and weights are summed on the device in float64: a count in float32 stops at 2**24.

    Attributes:
        loss_scale: What losses are divided by, set at the first micro-batch of a run; checkpoints keep it.
    """

    def __init__(self) -> None:
        self.loss_scale: float | None = None
        self._sums: Tensor | None = None

    @property
    def is_open(self) -> bool:
        """Whether there are gradients of a step that has not been made."""
        return self._sums is not None

    def accumulate(self, total: Tensor, weight: Tensor, trainer: Trainer) -> Tensor:
        """Add a micro-batch; only the first one of a run waits for the device and the other ranks.

        Args:
            total: The sum of its losses, scalar.
            weight: Their weight, scalar.
            trainer: Reaches the other ranks.

        Returns:
            The loss to call ``backward`` on.
        """
        if self.loss_scale is None:
            first = float(trainer.strategy.broadcast(float(weight)))
            self.loss_scale = 2.0 ** round(math.log2(first)) if first > 0 else 1.0
        sums = torch.stack([value.detach().to(widest_float()) for value in (total, weight)])
        self._sums = sums if self._sums is None else self._sums + sums
        return total / self.loss_scale

    def normalize_gradients(self, parameters: Iterable[nn.Parameter], trainer: Trainer) -> Tensor:
        """Divide the gradients by the window's weight, and start the next window.

        DDP has averaged the gradients over ranks, and Lightning has divided each loss by ``accumulate_grad_batches``,
        even where an epoch's last window is shorter: both are undone.

        Returns:
            The window's mean loss over all ranks, scalar; 0 where nothing was to be learned.
        """
        assert self._sums is not None
        assert self.loss_scale is not None
        total, weight = trainer.strategy.reduce(self._sums, reduce_op="sum")
        scale = trainer.world_size * trainer.accumulate_grad_batches * self.loss_scale
        factor = torch.where(weight > 0, scale / weight.float(), 0.0)  # nothing to learn from: no gradient
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(factor)
        self._sums = None
        return torch.where(weight > 0, total / weight, 0.0).float()

    def state(self) -> float | None:
        """Return the loss scale, for a checkpoint.

        Raises:
            CheckpointError: The window is open, and the checkpoint would lose its gradients.
        """
        if self.is_open:
            raise CheckpointError(
                "a checkpoint was asked for inside an accumulation window, whose gradients it would lose; save after "
                "an optimizer step"
            )
        return self.loss_scale


def at_step_boundary(trainer: Trainer) -> bool:
    """Tell whether an optimizer step follows the current micro-batch: only there may a run stop or be saved."""
    batches = trainer.fit_loop.epoch_loop.batch_progress
    ready = batches.current.ready
    is_last = batches.is_last_batch or ready == trainer.num_training_batches
    return is_last or ready % trainer.accumulate_grad_batches == 0


def check_nothing_inside_windows(trainer: Trainer) -> None:
    """Refuse validation and checkpoints that would fall inside a window, whose gradients no checkpoint holds.

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
            f"trainer.check_val_every_n_epoch: null counts on over the ends of epochs, and windows of {longest} "
            f"batches (trainer.accumulate_grad_batches) do not fill one of {batches}; leave it out"
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
