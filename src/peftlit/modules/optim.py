"""Parameter groups, and schedules that know the number of optimizer steps."""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, ReduceLROnPlateau
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from peftlit.errors import ConfigError


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Split the trainable parameters into one group with weight decay and one without.

    Biases, and whatever else has fewer than two dimensions (norms, scales), do not decay.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trainable if p.ndim >= 2]
    others = [p for p in trainable if p.ndim < 2]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def learning_rate(optimizer: Optimizer) -> float | None:
    """Return the learning rate of an optimizer's first group; None if it finds its own, as Adafactor does."""
    rate = optimizer.param_groups[0]["lr"]
    return None if rate is None else float(rate)


class Schedule:
    """A learning rate as a factor of the optimizer step, with linear warmup. Subclasses say how it decays.

    Args:
        num_warmup_steps: Optimizer steps over which the rate rises from 0.
        warmup_ratio: The same as a fraction of all optimizer steps; give one of the two.

    Raises:
        ConfigError: Both are given, or one is out of range.
    """

    def __init__(self, num_warmup_steps: int | None = None, warmup_ratio: float | None = None) -> None:
        if num_warmup_steps is not None and warmup_ratio is not None:
            raise ConfigError(
                f"scheduler: num_warmup_steps ({num_warmup_steps}) and warmup_ratio ({warmup_ratio}) say the same "
                "thing twice; keep one"
            )
        if num_warmup_steps is not None and num_warmup_steps < 0:
            raise ConfigError(f"scheduler.num_warmup_steps: got {num_warmup_steps}, needs 0 or more steps")
        if warmup_ratio is not None and not 0 <= warmup_ratio <= 1:
            raise ConfigError(f"scheduler.warmup_ratio: got {warmup_ratio}, needs a fraction from 0 to 1")
        self.num_warmup_steps = num_warmup_steps
        self.warmup_ratio = warmup_ratio

    def __call__(self, optimizer: Optimizer, num_training_steps: int) -> LambdaLR:
        """Bind the schedule to an optimizer and the optimizer steps of the whole run."""
        return LambdaLR(optimizer, lambda step: self.factor(step, num_training_steps))

    def factor(self, step: int, num_training_steps: int) -> float:
        """Return what the base learning rate is multiplied by after so many optimizer steps."""
        warmup = self.num_warmup_steps or math.ceil((self.warmup_ratio or 0.0) * num_training_steps)
        if step < warmup:
            return step / warmup
        return self.decay(min((step - warmup) / max(1, num_training_steps - warmup), 1.0))

    def decay(self, progress: float) -> float:
        """Return the factor after warmup; ``progress`` goes from 0 at its end to 1 at the end of the run."""
        raise NotImplementedError(f"{type(self).__name__} must say how the rate decays")


class LinearWarmup(Schedule):
    """Linear warmup, then linear decay to 0: Hugging Face's ``linear``."""

    def decay(self, progress: float) -> float:  # noqa: D102
        return 1.0 - progress


class CosineWarmup(Schedule):
    """Linear warmup, then half a cosine down to 0: Hugging Face's ``cosine``."""

    def decay(self, progress: float) -> float:  # noqa: D102
        return 0.5 * (1.0 + math.cos(math.pi * progress))


class ConstantWarmup(Schedule):
    """Linear warmup, then the base learning rate to the end."""

    def decay(self, progress: float) -> float:  # noqa: D102
        return 1.0


def with_schedule(optimizer: Optimizer, scheduler: Schedule | LRSchedulerCallable | None, steps: float) -> Any:
    """Bind a schedule to an optimizer, in the form that Lightning takes from ``configure_optimizers``.

    Args:
        optimizer: The optimizer.
        scheduler: A :class:`Schedule`, anything that builds a torch scheduler, or None.
        steps: Optimizer steps of the whole run; infinite if its end is unknown.

    Raises:
        ConfigError: The schedule has to know where training ends.
    """
    if scheduler is None:
        return optimizer
    if isinstance(scheduler, Schedule):
        if steps == float("inf"):
            raise ConfigError("scheduler: needs to know where training ends; set trainer.max_epochs or max_steps")
        built: Any = scheduler(optimizer, int(steps))
    else:
        built = scheduler(optimizer)
    when = {"monitor": built.monitor} if isinstance(built, ReduceLROnPlateau) else {"interval": "step"}
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": built, **when}}


def monitoring_scheduler(scheduler: Schedule | LRSchedulerCallable | None) -> ReduceLROnPlateau | None:
    """Return a scheduler that watches a logged value, bound to nothing; None if it watches none.

    Raises:
        ConfigError: It does not say which.
    """
    if scheduler is None or isinstance(scheduler, Schedule):
        return None
    try:
        built: Any = scheduler(torch.optim.SGD([torch.zeros(1)], lr=1.0))
    except ValueError:  # it wants as many groups as the run's own optimizer has, and then it watches nothing
        return None
    if isinstance(built, ReduceLROnPlateau):
        return built
    if isinstance(built, torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise ConfigError(
            "scheduler: torch's own ReduceLROnPlateau does not say what it watches; use "
            "lightning.pytorch.cli.ReduceLROnPlateau, with a monitor"
        )
    return None
