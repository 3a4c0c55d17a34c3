"""What the evaluation of a split adds up, over all batches and ranks: never a mean of batches."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn
from torchmetrics import SumMetric

from peftlit.backbone.hardware import widest_float
from peftlit.modules.metrics import Direction, Metrics

_LARGEST_LOSS = 700.0
"""exp() of more is no float64."""


def exact_sum() -> SumMetric:
    """Return a sum in float64, which counts on where float32 stops, at 2**24. A NaN stays one."""
    metric = SumMetric(nan_strategy="disable")
    metric.set_dtype(widest_float())
    return metric


class Scores(nn.Module, ABC):
    """The loss of a split, and what else its rows or tokens give; the children are torchmetrics."""

    def __init__(self) -> None:
        super().__init__()
        self.total, self.weight = exact_sum(), exact_sum()

    def reset(self) -> None:
        """Start counting anew."""
        for metric in self.children():
            metric.reset()  # type: ignore[operator]  # torchmetrics, all of them

    def update(self, total: Tensor, weight: Tensor, *outputs: Tensor) -> None:
        """Count a batch: the sum of its losses, what they are divided by, and what else scores are computed from."""
        self.total.update(total.detach())
        self.weight.update(weight)

    @abstractmethod
    def compute(self) -> tuple[dict[str, float], dict[str, Any]]:
        """Return the scalars to log by name, and the extras that are not logged."""

    @abstractmethod
    def directions(self) -> dict[str, Direction]:
        """Name every scalar but the loss, and say whether lower or higher is better."""


class ClassScores(Scores):
    """Loss and metrics over the rows of a split that have labels."""

    def __init__(self, metrics: Metrics) -> None:
        super().__init__()
        self.rows = exact_sum()
        self.metrics = metrics

    def update(self, total: Tensor, weight: Tensor, answers: Tensor, labels: Tensor) -> None:  # type: ignore[override]
        """Count a batch with the problem's answers and the labels."""
        super().update(total, weight)
        self.rows.update(len(answers))
        self.metrics.update(answers, labels)

    def compute(self) -> tuple[dict[str, float], dict[str, Any]]:
        """Return loss and metrics; extras: ``rows``, and ``confusion_matrix`` if there is one."""
        computed = self.metrics.compute()
        extras: dict[str, Any] = {"rows": int(self.rows.compute())}
        if "confusion_matrix" in computed:
            extras["confusion_matrix"] = computed["confusion_matrix"].cpu().tolist()
        return {"loss": float(self.total.compute() / self.weight.compute()), **self.metrics.scalars(computed)}, extras

    def directions(self) -> dict[str, Direction]:
        """Those of the metrics."""
        return self.metrics.directions()


class TokenScores(Scores):
    """Loss, perplexity and accuracy over all predicted tokens of a split, each token counted alike."""

    def __init__(self) -> None:
        super().__init__()
        self.right = exact_sum()

    def update(self, total: Tensor, tokens: Tensor, right: Tensor) -> None:  # type: ignore[override]
        """Count a batch: its summed loss in nats, its tokens, and how many of them were the likeliest one."""
        super().update(total, tokens)
        self.right.update(right)

    def compute(self) -> tuple[dict[str, float], dict[str, Any]]:
        """Return ``loss`` (nats a token), ``perplexity`` and ``accuracy``; extras: the number of ``tokens``."""
        tokens = int(self.weight.compute())
        loss, accuracy = (float(sums.compute()) / (tokens or math.nan) for sums in (self.total, self.right))
        perplexity = math.exp(min(loss, _LARGEST_LOSS))
        return {"loss": loss, "perplexity": perplexity, "accuracy": accuracy}, {"tokens": tokens}

    def directions(self) -> dict[str, Direction]:
        """Perplexity falls, accuracy rises."""
        return {"perplexity": "min", "accuracy": "max"}
