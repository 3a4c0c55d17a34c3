"""What the evaluation of a split adds up, over all batches and ranks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn
from torchmetrics import SumMetric

from peftlit.backbone.hardware import widest_float
from peftlit.modules.metrics import Direction


class Scores(nn.Module, ABC):
    """The scores of a split; its children are torchmetrics."""

    def reset(self) -> None:
        """Start counting anew."""
        for metric in self.children():
            metric.reset()  # type: ignore[operator]  # torchmetrics, all of them

    @abstractmethod
    def update(self, total: Tensor, weight: Tensor, *outputs: Tensor) -> None:
        """Count a batch.

        Args:
            total: The sum of its losses, scalar.
            weight: What they are divided by, scalar.
            outputs: What else the scores are computed from.
        """

    @abstractmethod
    def compute(self) -> tuple[dict[str, float], dict[str, Any]]:
        """Return the scalars to log by name, and the extras that are not logged."""

    @abstractmethod
    def directions(self) -> dict[str, Direction]:
        """Name every scalar but the loss, and say whether lower or higher is better."""


def exact_sum() -> SumMetric:
    """Return a sum in float64, which counts on where float32 stops, at 2**24. A NaN stays one."""
    metric = SumMetric(nan_strategy="disable")
    metric.set_dtype(widest_float())
    return metric
