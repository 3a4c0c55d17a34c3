"""The accumulation window: the micro-batches of one optimizer step, on all ranks, counted as one batch."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from lightning import Trainer
from torch import Tensor, nn

from peftlit.backbone.hardware import widest_float


class AccumulationWindow:
    """Makes the gradient of a window that of one batch: summed losses over the summed weight.

    A mean of means would count the rows of a short micro-batch for more than those of a long one. So each micro-batch
    gives its summed loss, and when the window closes, its gradients are divided by the weight of all that went into
    them, on every rank. Until then losses are held near 1 by an anchor, for the sake of float16; it is a power of two,
    and rounds nothing. Losses and weights are summed on the device, in float64: a count in float32 stops at 2**24.

    Attributes:
        anchor: What losses are divided by, from the first micro-batch of a run on; checkpoints keep it.
    """

    def __init__(self) -> None:
        self.anchor: float | None = None
        self._sums: Tensor | None = None

    @property
    def is_open(self) -> bool:
        """Whether micro-batches have gone into a step that has not been made."""
        return self._sums is not None

    def add(self, total: Tensor, weight: Tensor, trainer: Trainer) -> Tensor:
        """Take a micro-batch into the window. Only the first one of a run waits for the device and the other ranks.

        Args:
            total: The sum of its losses, scalar.
            weight: Their weight, scalar.
            trainer: Knows the other ranks.

        Returns:
            What to call ``backward`` on.
        """
        if self.anchor is None:
            first = float(trainer.strategy.broadcast(float(weight)))
            self.anchor = 2.0 ** round(math.log2(first)) if first > 0 else 1.0
        sums = torch.stack([value.detach().to(widest_float()) for value in (total, weight)])
        self._sums = sums if self._sums is None else self._sums + sums
        return total / self.anchor

    def close(self, parameters: Iterable[nn.Parameter], trainer: Trainer) -> Tensor:
        """Divide the gradients by the window's weight, and start the next window.

        Args:
            parameters: The parameters; those without a gradient are left alone.
            trainer: Knows the other ranks, over whose gradients DDP has taken the mean, and by how much Lightning has
                divided each loss: ``accumulate_grad_batches``, also where the epoch's last window is shorter.

        Returns:
            The window's mean loss over all ranks, scalar; 0 where nothing was to be learned.
        """
        assert self._sums is not None
        assert self.anchor is not None
        total, weight = trainer.strategy.reduce(self._sums, reduce_op="sum")
        scale = trainer.world_size * trainer.accumulate_grad_batches * self.anchor
        factor = torch.where(weight > 0, scale / weight.float(), 0.0)  # nothing to learn from: no gradient
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(factor)
        self._sums = None
        return torch.where(weight > 0, total / weight, 0.0).float()


def at_step_boundary(trainer: Trainer) -> bool:
    """Tell whether the current micro-batch is the last one of its window: an optimizer step is made of it."""
    batches = trainer.fit_loop.epoch_loop.batch_progress
    ready = batches.current.ready
    is_last = batches.is_last_batch or ready == trainer.num_training_batches
    return is_last or ready % trainer.accumulate_grad_batches == 0
