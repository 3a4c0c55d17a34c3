"""Stop a run in which something that should learn does not, or something frozen changes."""

from __future__ import annotations

import logging
import math
import zlib
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from peftlit.errors import TrainabilityError

log = logging.getLogger(__name__)


_SHORTEST_WAY = 1e-6
"""Sum of learning rates before anything is judged: shorter ways may be lost in float32's rounding."""


class TrainabilityGuard(Callback):
    """Judge every tensor after a few optimizer steps with a learning rate over zero.

    Every trainable one must have had a finite gradient other than zero and must have changed; every frozen one must be
    unchanged. A few steps are needed: LoRA's A has a gradient of exactly zero while B is zero.

    Args:
        num_steps: Optimizer steps with a learning rate over zero before the judgement.
    """

    def __init__(self, num_steps: int = 4) -> None:
        self.num_steps = num_steps
        self._steps = 0
        self._way = 0.0
        self._before: dict[str, int] = {}
        self._learned: set[str] = set()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the fingerprints that are compared later."""
        self._steps, self._way, self._learned = 0, 0.0, set()
        self._before = {name: _fingerprint(p) for name, p in pl_module.named_parameters()}

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Note which tensors have a gradient to learn from."""
        # an optimizer that finds its own rate, as Adafactor does, has None
        rates = [math.inf if group["lr"] is None else float(group["lr"]) for group in optimizer.param_groups]
        if not self._before or not any(rates):
            return
        gradients = {name: p.grad for name, p in pl_module.named_parameters() if p.grad is not None}
        found = [torch.stack([gradient.isfinite().all(), gradient.any()]) for gradient in gradients.values()]
        answers = torch.stack(found).tolist() if found else []  # one transfer for all tensors
        if getattr(trainer.precision_plugin, "scaler", None) is not None and not all(finite for finite, _ in answers):
            return  # the scaler skips this step, and lowers its scale until one fits
        self._steps += 1
        self._way += max(rates)
        self._learned |= {name for name, answer in zip(gradients, answers, strict=True) if all(answer)}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Judge, once.

        Raises:
            TrainabilityError: Naming the first tensor that broke the rule.
        """
        if not self._before or self._steps < self.num_steps or self._way < _SHORTEST_WAY:
            return
        for name, parameter in pl_module.named_parameters():
            moved = _fingerprint(parameter) != self._before.get(name)
            if parameter.requires_grad and name not in self._learned:
                raise TrainabilityError(
                    f"{name} trains but had no finite gradient other than zero in {self._steps} optimizer steps: "
                    "it is not part of the loss's graph, or the loss is not finite"
                )
            if parameter.requires_grad and not moved:
                raise TrainabilityError(f"{name} trains but did not move in {self._steps} optimizer steps")
            if not parameter.requires_grad and moved:
                raise TrainabilityError(f"{name} is frozen but changed within {self._steps} optimizer steps")
        log.info("every trainable tensor learns and every frozen one is unchanged (%d steps)", self._steps)
        self._before = {}


def _fingerprint(tensor: Tensor) -> int:
    """CRC-32 of the tensor's bytes."""
    raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return zlib.crc32(raw.numpy().data)
