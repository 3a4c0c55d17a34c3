"""Stop, or skip the step, on a NaN or infinite loss or gradient."""

from __future__ import annotations

import logging
from typing import Any, Literal

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from peftlit import distributed
from peftlit.errors import NotFiniteError
from peftlit.modules.optim import learning_rate

log = logging.getLogger(__name__)

_NAMED = 8
"""At most so many row numbers stand in a message."""


class FiniteGuard(Callback):
    """Check every optimizer step's losses and gradients before the step is made: one transfer from the device a step.

    All ranks judge alike: what is not finite on one of them ends or skips the step on all. Under a float16 scaler
    infinite gradients are left to the scaler, which skips the step and lowers its scale. A loss that is not finite
    never is.

    Args:
        policy: ``stop`` = end the run, weights and checkpoints untouched; ``skip`` = leave the step out, and count it.
    """

    def __init__(self, policy: Literal["stop", "skip"] = "stop") -> None:
        self.policy = policy
        self.skipped_steps = 0
        self._rows: list[Tensor] = []
        self._losses: list[Tensor] = []

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Keep the micro-batch's loss."""
        self._losses.append(loss.detach())

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Keep the micro-batch's row numbers."""
        if isinstance(batch, dict) and "row" in batch:
            self._rows.append(batch["row"])

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Judge the step.

        Raises:
            NotFiniteError: Naming step, rows and learning rate.
        """
        losses, rows = self._losses, self._rows
        self._losses, self._rows = [], []
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        broken = torch.zeros(2, dtype=torch.int32, device=trainer.strategy.root_device)
        if losses:
            broken[0] = torch.stack(losses).isfinite().all().logical_not()
        if gradients and getattr(trainer.precision_plugin, "scaler", None) is None:
            broken[1] = get_total_norm(gradients).isfinite().logical_not()
        loss_is_broken, gradient_is_broken = trainer.strategy.reduce(broken, reduce_op="max").tolist()
        if not loss_is_broken and not gradient_is_broken:
            return
        what = "loss" if loss_is_broken else "gradient"
        numbers = distributed.gather([str(int(row)) for part in rows for row in part])
        rate = learning_rate(optimizer)
        named = ", ".join(numbers[:_NAMED]) + (f" and {len(numbers) - _NAMED} more" if len(numbers) > _NAMED else "")
        said = (
            f"step {trainer.global_step + 1}: the {what} is not finite (training rows {named or 'unknown'}; learning "
            f"rate {'its own' if rate is None else f'{rate:.3g}'})"
        )
        if self.policy == "stop":
            raise NotFiniteError(
                f"{said}; lower the learning rate or set trainer.gradient_clip_val; --ckpt_path last goes on from the "
                "last checkpoint"
            )
        optimizer.zero_grad(set_to_none=True)
        self.skipped_steps += 1
        log.warning("%s; skipped, %d in all", said, self.skipped_steps)

    def state_dict(self) -> dict[str, Any]:
        """Return the count of skipped steps."""
        return {"skipped_steps": self.skipped_steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the count back."""
        self.skipped_steps = state_dict["skipped_steps"]
