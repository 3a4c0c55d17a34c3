"""What a split's evaluation adds up, over all batches and ranks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import nn
from torchmetrics import SumMetric

from peftlit.backbone.hardware import widest_float


class Scores(nn.Module, ABC):
    """The scores of a split; its members are torchmetrics."""

    def reset(self) -> None:
        """Start counting anew."""
        for metric in self.children():
            metric.reset()  # type: ignore[operator]  # torchmetrics, all of them

    @abstractmethod
    def compute(self) -> tuple[dict[str, float], dict[str, Any]]:
        """Return the scalars to log by name, and what else there is to tell."""


def exact_sum() -> SumMetric:
    """Return a sum in float64, which counts on where float32 stops, at 2**24. A NaN stays one."""
    metric = SumMetric(nan_strategy="disable")
    metric.set_dtype(widest_float())
    return metric
