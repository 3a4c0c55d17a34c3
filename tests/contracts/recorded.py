"""One short fit with all that contracts ask of it written down, so that each of them need not train again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer

from tests.modules.cases import fit, weights_of


class Recorded(Callback):
    """What was seen while a module was trained."""

    def __init__(self, module: Any, folder: Path) -> None:
        self.module, self.folder = module, folder
        self.trainer: Trainer
        self.before: dict[str, torch.Tensor] = {}  # every parameter before the first step
        self.finite: set[str] = set()  # parameters that had a finite gradient that was not zero
        self.not_finite: set[str] = set()  # those that once had another one
        self.gradients: set[torch.dtype] = set()
        self.outputs: set[torch.dtype] = set()  # of the head's last linear layer
        self.evaluating: list[list[str]] = []  # for every training batch, the layers in evaluation mode
        self.validations: list[int] = []  # for every training batch, how many validations had been
        self.rates: list[float] = []  # of every optimizer step
        self._validations = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.before = weights_of(pl_module)
        linear = [m for n, m in pl_module.model.named_modules() if type(m) is torch.nn.Linear and "original" not in n]
        if linear:
            linear[-1].register_forward_hook(lambda _, __, output: self.outputs.add(output.dtype))

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self._validations += 1

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.evaluating.append([name for name, layer in pl_module.named_modules() if not layer.training])
        self.validations.append(self._validations)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.rates += {group["lr"] for group in optimizer.param_groups}
        for name, parameter in pl_module.named_parameters():
            if parameter.grad is not None:
                self.gradients.add(parameter.grad.dtype)
                if not parameter.grad.isfinite().all():
                    self.not_finite.add(name)
                elif parameter.grad.any():
                    self.finite.add(name)


def record(
    module: Any, folder: Path, *callbacks: Callback, steps: int = 6, fit: Callable[..., Trainer] = fit, **arguments: Any
) -> Recorded:
    """Train with a validation before the first step and after every second one."""
    seen = Recorded(module, folder)
    seen.trainer = fit(module, folder, steps, seen, *callbacks, **{"val_check_interval": 2, **arguments})
    return seen
