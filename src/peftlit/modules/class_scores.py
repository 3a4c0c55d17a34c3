"""The scores of a split whose rows have labels: loss, metrics, confusion matrix."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from peftlit.modules.metrics import Direction, Metrics
from peftlit.modules.scores import Scores, exact_sum


class ClassScores(Scores):
    """Loss and metrics over the rows of a split, on all ranks."""

    def __init__(self, metrics: Metrics) -> None:
        super().__init__()
        self.total, self.weight, self.rows = exact_sum(), exact_sum(), exact_sum()
        self.metrics = metrics

    def update(self, total: Tensor, weight: Tensor, answers: Tensor, labels: Tensor) -> None:  # type: ignore[override]
        """Count a batch with the problem's answers and the labels."""
        self.total.update(total.detach())
        self.weight.update(weight)
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
